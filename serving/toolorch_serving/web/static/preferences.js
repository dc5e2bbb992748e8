// What the caller cares about, as sliders.

import { freshId, h } from "./dom.js";

const PREFERENCES = [
  { key: "quality", label: "Quality", start: 1 },
  { key: "cost", label: "Low cost", start: 0 },
  { key: "latency", label: "Speed", start: 0 },
];

/** Sliders over `state.preferences`, which stays null, for the gateway's own, until one of them is moved. */
export function sliders(state, save) {
  const reset = h("button", { type: "button", class: "quiet small" }, "Use the gateway's own");
  const note = h("p", { class: "fine" });
  const rows = PREFERENCES.map(({ key, label, start }) => {
    const id = freshId(key);
    const shown = h("span", { class: "level", "aria-hidden": "true" }); // the slider itself says it
    const input = h("input", {
      id,
      type: "range",
      min: 0,
      max: 1,
      step: 0.05,
      value: state.preferences?.[key] ?? start,
    });
    const show = () => {
      shown.textContent = `${input.value} · ${level(Number(input.value))}`;
      input.setAttribute("aria-valuetext", `${input.value}, matters ${level(Number(input.value))}`);
    };
    const change = () => {
      state.preferences = Object.fromEntries(rows.map((row) => [row.key, Number(row.input.value)]));
      show();
      noted();
      save();
    };
    input.addEventListener("input", change);
    show();
    return {
      key,
      input,
      start,
      show,
      element: h("div", { class: "slider" }, h("label", { for: id }, label), shown, input),
    };
  });
  const noted = () => {
    note.textContent = state.preferences
      ? "Sent with the next question."
      : "Left alone: the gateway's own preferences apply.";
    reset.hidden = !state.preferences;
  };
  reset.addEventListener("click", () => {
    state.preferences = null;
    for (const row of rows) {
      row.input.value = row.start;
      row.show();
    }
    noted();
    save();
    rows[0].input.focus();
  });
  noted();
  return [rows.map((row) => row.element), note, reset];
}

// The words in which the policy reads a weight (toolorch_integrations/preferences.py).
function level(value) {
  if (value <= 0) return "not at all";
  if (value < 0.34) return "a little";
  return value < 0.67 ? "much" : "most of all";
}
