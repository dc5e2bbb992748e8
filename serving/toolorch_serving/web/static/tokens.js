// A message's tokens, each shaded by how likely the policy found it.

import { fill, h, roving } from "./dom.js";
import { count, percent, plural } from "./format.js";

const AT_ONCE = 1500; // tokens drawn before the person asks for all

// Levels by least probability. The underline says the same as the shade.
const LEVELS = [
  { least: 0.9, name: "90 % and over" },
  { least: 0.5, name: "50 to 90 %" },
  { least: 0.1, name: "10 to 50 %" },
  { least: 0.01, name: "1 to 10 %" },
  { least: 0, name: "under 1 %" },
];

/** Tokens of one message with their legend, and a line that tells all of the one that is pointed at or focused. */
export function tokens(list) {
  if (!list.length)
    return h("p", { class: "none" }, "No token ids: they belong to another message, or the endpoint gave none.");
  const sampled = list.some((token) => Number.isFinite(token.logprob));
  const readout = h(
    "p",
    { class: "readout", "aria-hidden": "true" },
    sampled
      ? "Point at a token, or move with the arrow keys."
      : "The app wrote this message: its tokens have no log-probabilities.",
  );
  const row = h("div", { class: "tokens", role: "listbox", "aria-label": "Tokens; arrow keys move between them" });
  const tell = (item) => item && fill(readout, item.getAttribute("aria-label"));
  row.addEventListener("pointerover", (event) => tell(event.target.closest(".token")));
  const draw = (limit) => fill(row, list.slice(0, limit).map(token));
  draw(AT_ONCE);
  roving(row, ".token", tell);
  const all = () => {
    draw(list.length);
    row.firstElementChild.tabIndex = 0;
    row.firstElementChild.focus();
    more.remove();
  };
  const more =
    list.length > AT_ONCE &&
    h("button", { type: "button", on: { click: all } }, `Show all ${count(list.length)} tokens`);
  return h(
    "div",
    { class: "token-block" },
    h("h4", {}, plural(list.length, "token")),
    sampled && legend(),
    readout,
    row,
    more,
  );
}

function token({ id, logprob, text }, index) {
  const known = Number.isFinite(logprob);
  const name = text === null || text === undefined ? `#${id}` : JSON.stringify(text);
  const value = known
    ? `log-probability ${logprob.toFixed(4)}, probability ${percent(Math.exp(logprob), 1)}`
    : "not sampled";
  const label = `token ${index + 1}: ${name}, id ${id}, ${value}`;
  return h(
    "span",
    {
      class: text ? "token" : "token bare",
      role: "option",
      tabindex: index === 0 ? "0" : "-1",
      "aria-selected": "false",
      "aria-label": label,
      data: { level: known ? level(logprob) : "none" },
    },
    shown(text, id),
  );
}

export function level(logprob) {
  const probability = Math.exp(logprob);
  return LEVELS.findIndex(({ least }) => probability >= least);
}

// Line ends show as a mark; the break itself follows it.
function shown(text, id) {
  if (text === null || text === undefined || text === "") return `#${id}`;
  return text.replaceAll("\n", "↵\n");
}

function legend() {
  const items = LEVELS.map(({ name }, index) =>
    h("li", {}, h("span", { class: "token", "aria-hidden": "true", data: { level: index } }, "abc"), name),
  );
  return h("ul", { class: "legend", "aria-label": "Probability of a token" }, items);
}
