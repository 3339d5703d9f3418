// Applies the colours that the reader has chosen before the page is first drawn.
"use strict";

try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Storage is blocked: the colours follow the system.
}
