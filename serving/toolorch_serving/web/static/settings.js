// The API key, how the gateway is, and light or dark.

import { get } from "./api.js";
import { announce, fill, freshId, h } from "./dom.js";
import { json } from "./format.js";
import { problem } from "./problem.js";
import { SCHEMES, apiKey, scheme } from "./session.js";

export function settingsView() {
  const health = h("div", {});
  drawHealth(health);
  return h(
    "div",
    { class: "narrow" },
    h("h1", { tabindex: "-1" }, "Settings"),
    h(
      "section",
      { class: "card", "aria-label": "API key" },
      h("h2", {}, "API key"),
      keyForm(() => drawHealth(health)),
    ),
    h("section", { class: "card", "aria-label": "Gateway" }, h("h2", {}, "Gateway"), health),
    h("section", { class: "card", "aria-label": "Appearance" }, h("h2", {}, "Appearance"), schemeChoice()),
  );
}

function keyForm(onChange) {
  const id = freshId("key");
  const about = freshId("about");
  const input = h("input", {
    id,
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": about,
    value: apiKey.get(),
  });
  const reveal = h("button", { type: "button", "aria-pressed": "false" }, "Show");
  const forget = h("button", { type: "button" }, "Forget");
  const said = h("p", { class: "fine", role: "status" });
  reveal.addEventListener("click", () => {
    const shown = input.type === "password";
    input.type = shown ? "text" : "password";
    reveal.setAttribute("aria-pressed", String(shown));
    reveal.textContent = shown ? "Hide" : "Show";
  });
  const keep = (key, text) => {
    apiKey.set(key);
    input.value = key;
    said.textContent = text;
    onChange();
  };
  forget.addEventListener("click", () => keep("", "The key is forgotten."));
  const form = h(
    "form",
    {},
    h("label", { for: id }, "Key"),
    h("div", { class: "row grow" }, input, reveal),
    h(
      "p",
      { id: about, class: "fine" },
      "Kept in this tab's session only: closing the tab forgets it. It goes to this gateway and nowhere else.",
    ),
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Use this key"), forget),
    said,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const key = input.value.trim();
    keep(key, key ? "The key is used from now on." : "No key is sent from now on.");
  });
  return form;
}

async function drawHealth(place) {
  fill(place, h("p", { class: "loading" }, "Looking …"));
  try {
    const health = await get("health");
    const rows = Object.entries(health).map(([name, value]) => [h("dt", {}, name), h("dd", {}, json(value))]);
    fill(place, h("dl", { class: "facts" }, rows), h("p", {}, h("a", { href: "docs" }, "API documentation")));
  } catch (error) {
    fill(
      place,
      problem(error, () => drawHealth(place)),
    );
  }
}

function schemeChoice() {
  const name = freshId("scheme");
  const choices = Object.entries(SCHEMES).map(([value, label]) => {
    const change = () => {
      scheme.set(value);
      announce(`Appearance: ${label}.`);
    };
    return h(
      "label",
      { class: "choice" },
      h("input", { type: "radio", name, value, checked: scheme.get() === value, on: { change } }),
      label,
    );
  });
  return h("fieldset", { class: "choices" }, h("legend", { class: "unseen" }, "Appearance"), choices);
}
