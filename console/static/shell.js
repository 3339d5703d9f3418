// What is around every page: colours, times, keyboard shortcuts. Without this file none of them is shown.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);

  // Choices are kept in this browser; where its storage is blocked, they last as long as the page.
  const recall = (name) => {
    try {
      return localStorage.getItem(name) ?? "";
    } catch {
      return "";
    }
  };
  const keep = (name, value) => {
    try {
      if (value) localStorage.setItem(name, value);
      else localStorage.removeItem(name);
    } catch {
      // not kept
    }
  };

  const followTheme = () => {
    const select = byId("choose-theme");
    select.value = recall("theme");
    select.addEventListener("change", () => {
      keep("theme", select.value);
      if (select.value) document.documentElement.dataset.theme = select.value;
      else delete document.documentElement.dataset.theme;
    });
  };

  const followTimes = () => {
    const select = byId("choose-times");
    const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
    const show = () => {
      for (const time of document.querySelectorAll("main time[datetime]")) {
        const iso = new Date(time.dateTime).toISOString();
        const utc = `${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC`;
        const text = select.value === "local" ? format.format(new Date(time.dateTime)) : utc;
        if (time.textContent !== text) time.textContent = text;
      }
    };
    select.value = recall("times") || "utc";
    select.addEventListener("change", () => {
      keep("times", select.value);
      show();
    });
    document.body.addEventListener("htmx:afterSwap", show);
    document.body.addEventListener("htmx:afterRequest", show);
    if (select.value === "local") show();
  };

  const SEARCH_FIELDS = ["interaction", "error"];
  const SEARCH = "#search";
  const focusSearch = () => {
    const field = SEARCH_FIELDS.map(byId).find(Boolean);
    field?.closest("details")?.setAttribute("open", "");
    field?.focus();
    return Boolean(field);
  };

  const SECOND_KEY_MS = 1500;
  const followKeys = () => {
    const help = byId("shortcuts");
    const used = byId("use-shortcuts");
    let wasG = 0;
    used.checked = recall("shortcuts") !== "off";
    used.addEventListener("change", () => keep("shortcuts", used.checked ? "" : "off"));
    byId("show-shortcuts").addEventListener("click", () => help.showModal());
    byId("hide-shortcuts").addEventListener("click", () => help.close());

    const linkOf = (key) => document.querySelector(`nav a[data-key="${CSS.escape(key)}"]`);
    const act = (key) => {
      const isSecond = Date.now() - wasG < SECOND_KEY_MS;
      wasG = !isSecond && key === "g" ? Date.now() : 0;
      if (isSecond && linkOf(key)) linkOf(key).click();
      else if (key === "?") help.showModal();
      else if (key === "/") focusSearch() || location.assign(linkOf("r").href + SEARCH);
      else return false;
      return true;
    };
    document.addEventListener("keydown", (event) => {
      const isTyped = event.target.closest?.("input:not([type=checkbox]), textarea, select, dialog");
      if (!used.checked || isTyped || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      if (act(event.key)) event.preventDefault();
    });
    if (location.hash === SEARCH) focusSearch();
  };

  byId("preferences").hidden = false;
  followTheme();
  if (byId("choose-times")) followTimes();
  if (byId("shortcuts")) followKeys();
})();
