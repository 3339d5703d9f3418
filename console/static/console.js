// Keeps the live part of a page current. Every page works without this file: it then shows the time at which it was made.
"use strict";

(() => {
  const TIMEOUT_MS = 10_000;
  const live = document.getElementById("live");
  if (!live) return;
  const message = document.getElementById("poll-message");
  let etag = live.dataset.etag;
  let paused = false;
  let seen = Date.now();

  const isPoll = (event) => event.detail.elt === live;
  const showAsOf = (time) => {
    const shown = live.querySelector("[data-as-of]");
    if (!shown) return;
    shown.dateTime = time.toISOString();
    shown.textContent = `${shown.dateTime.slice(0, 19).replace("T", " ")} UTC`;
  };
  const say = (text) => {
    if (message.textContent !== text) message.textContent = text;
  };
  const fail = () => say(`no answer: last seen ${Math.round((Date.now() - seen) / 1000)} s ago`);

  const button = document.createElement("button");
  button.type = "button";
  button.id = "pause-polling";
  button.className = "secondary";
  const label = () => (button.textContent = paused ? "Continue updating" : "Pause updating");
  button.addEventListener("click", () => {
    paused = !paused;
    label();
    say(paused ? "updates are paused" : "");
  });
  label();
  message.before(button);

  document.body.addEventListener("htmx:beforeRequest", (event) => {
    if (isPoll(event) && (paused || document.hidden)) event.preventDefault();
  });
  document.body.addEventListener("htmx:configRequest", (event) => {
    if (!isPoll(event)) return;
    event.detail.timeout = TIMEOUT_MS;
    if (etag) event.detail.headers["If-None-Match"] = etag;
  });
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (!isPoll(event)) return;
    const { xhr } = event.detail;
    if (xhr.responseURL && new URL(xhr.responseURL).pathname !== location.pathname) {
      location.reload(); // the session has ended: show the login
      event.detail.shouldSwap = false;
      return;
    }
    if (xhr.status !== 200 && xhr.status !== 304) return;
    seen = Date.now();
    say("");
    if (xhr.status === 304) {
      event.detail.shouldSwap = false;
      event.detail.isError = false;
      const date = xhr.getResponseHeader("Date");
      showAsOf(date ? new Date(date) : new Date());
    } else {
      etag = xhr.getResponseHeader("ETag");
    }
  });
  for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
    document.body.addEventListener(name, (event) => {
      if (isPoll(event)) fail();
    });
  }
})();

// Personal data leaves the screen after its time, however long the machine slept, and is not shown again by going back.
(() => {
  const revealed = document.getElementById("revealed");
  if (!revealed) return;
  const { seconds, next } = revealed.dataset;
  const endsAt = Date.now() + Number(seconds) * 1000;
  const end = () => {
    if (Date.now() < endsAt) return;
    clearInterval(timer);
    revealed.remove();
    location.replace(next);
  };
  const timer = setInterval(end, 1000);
  document.addEventListener("visibilitychange", end);
  addEventListener("pagehide", () => revealed.remove());
})();
