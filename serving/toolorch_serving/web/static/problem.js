// How errors look: what happened, why, and what to do.

import { announce, h } from "./dom.js";
import { seconds } from "./format.js";

/** A box that says what went wrong. `retry`, where given, is called by its button. */
export function problem(error, retry = null) {
  const facts = [
    error.param && `field ${error.param}`,
    error.code && `code ${error.code}`,
    error.status && `HTTP ${error.status}`,
  ];
  const shown = facts.filter(Boolean);
  announce(`Error: ${error.message} ${error.fix ?? ""}`);
  return h(
    "div",
    { class: "problem" },
    h("p", { class: "problem-title" }, h("span", { "aria-hidden": "true" }, "! "), "Error: ", error.message),
    error.fix && h("p", {}, error.fix),
    error.retryAfter !== null &&
      error.retryAfter !== undefined &&
      h("p", {}, `Try again in ${seconds(error.retryAfter)}.`),
    shown.length > 0 && h("p", { class: "fine" }, shown.join(" · ")),
    h(
      "p",
      { class: "row" },
      retry && h("button", { type: "button", on: { click: retry } }, "Try again"),
      error.settings && h("a", { class: "button", href: "#/settings" }, "Open settings"),
    ),
  );
}

/** What a place shows while it has nothing. */
export function empty(title, text) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), h("p", {}, text));
}

export function loading(what) {
  return h("p", { class: "loading", role: "status" }, `Loading ${what} …`);
}
