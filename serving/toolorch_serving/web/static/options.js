// What goes with a question: preferences, a budget, and which tools and specialists may be used.

import { get } from "./api.js";
import { fill, freshId, h } from "./dom.js";
import { dollars } from "./format.js";
import { sliders } from "./preferences.js";
import { problem } from "./problem.js";
import { apiKey, options as kept } from "./session.js";

const LIMITS = [
  { key: "dollars", label: "Dollars", step: "any", mode: "decimal" },
  { key: "turns", label: "Turns", step: "1", mode: "numeric" },
  { key: "seconds", label: "Seconds", step: "any", mode: "decimal" },
];
const USES = { allowed: "May use", preferred: "Prefer", forbidden: "Never" };

/** The panel of choices. `body()` gives them as fields of a request; what is left alone is left to the gateway. */
export function optionsPanel() {
  const state = { preferences: null, budget: {}, uses: {}, orchestrator: "", ...kept.get() };
  const save = () => kept.set(state);
  const limits = limitFields(state, save);
  const callables = callablesChoice(state, save);
  const element = h(
    "aside",
    { class: "options", "aria-label": "Choices for the next question" },
    section("Preferences", sliders(state, save)),
    section("Budget", limits.element),
    section("Tools and specialists", callables.element),
  );
  callables.load();
  apiKey.onChange(callables.load);
  return { element, body: () => requestFields(state), valid: limits.valid };
}

function requestFields({ preferences, budget, uses, orchestrator }) {
  const chosen = (use) => Object.keys(uses).filter((name) => uses[name] === use);
  const body = {};
  if (orchestrator) body.orchestrator = orchestrator;
  if (preferences) body.preferences = preferences;
  if (Object.keys(budget).length) body.budget = budget;
  if (chosen("forbidden").length) body.forbidden = chosen("forbidden");
  if (chosen("preferred").length) body.preferred = chosen("preferred");
  return structuredClone(body);
}

// Open on wide screens; on a phone the conversation comes first.
function section(title, content) {
  const wide = matchMedia("(min-width: 60rem)").matches;
  return h("details", { class: "panel", open: wide }, h("summary", {}, h("h2", {}, title)), content);
}

function limitFields(state, save) {
  const inputs = [];
  const rows = LIMITS.map(({ key, label, step, mode }) => {
    const id = freshId(key);
    const input = h("input", {
      id,
      type: "number",
      min: 0,
      step,
      inputmode: mode,
      placeholder: "no limit",
      value: state.budget[key] ?? null,
    });
    input.addEventListener("input", () => {
      if (input.value === "") delete state.budget[key];
      else if (input.validity.valid) state.budget[key] = input.valueAsNumber;
      save();
    });
    inputs.push(input);
    return h("div", { class: "limit-field" }, h("label", { for: id }, label), input);
  });
  const note = "The run answers with what it has when a limit is reached.";
  return {
    element: [h("div", { class: "limits" }, rows), h("p", { class: "fine" }, note)],
    valid: () => inputs.every((input) => input.validity.valid || (openAround(input), input.reportValidity())),
  };
}

function openAround(input) {
  input.closest("details").open = true;
}

// Who is asked, and what that one may call. `load` reads both anew; what was asked for last is what shows.
function callablesChoice(state, save) {
  const choice = h("div", { class: "orchestrator" });
  const catalogue = h("div", {});
  let asked = 0;
  const latest = async (read) => {
    asked += 1;
    const number = asked;
    fill(catalogue, h("p", { class: "fine" }, "Loading the catalogue …"));
    try {
      await read(() => number === asked);
    } catch (error) {
      if (number === asked) fill(catalogue, problem(error, load));
    }
  };
  const entries = async (isLatest) => {
    const { data } = await get("v1/catalog", { orchestrator: state.orchestrator });
    if (isLatest()) drawEntries(catalogue, data, state, save);
  };
  const chosen = () => {
    save();
    latest(entries);
  };
  const load = () =>
    latest(async (isLatest) => {
      fill(choice);
      const { data } = await get("v1/models");
      if (!isLatest()) return;
      drawOrchestrators(choice, data, state, chosen);
      await entries(isLatest);
    });
  return { element: [choice, catalogue], load };
}

// Shown only where there is a choice.
function drawOrchestrators(place, models, state, onChange) {
  const names = models.filter((model) => model.owned_by === "toolorch").map((model) => model.id);
  state.orchestrator = names.length < 2 ? "" : preferred(names, state.orchestrator);
  if (!state.orchestrator) return;
  const id = freshId("orchestrator");
  const select = h(
    "select",
    { id },
    names.map((name) => h("option", { value: name, selected: name === state.orchestrator }, name)),
  );
  select.addEventListener("change", () => {
    state.orchestrator = select.value;
    onChange();
  });
  fill(place, h("label", { for: id }, "Orchestrator"), select);
}

// The one that was chosen before, or the one that the gateway takes when none is named.
function preferred(names, before) {
  return [before, "orchestrator"].find((name) => names.includes(name)) ?? names[0];
}

function drawEntries(place, entries, state, save) {
  const names = new Set(entries.map((entry) => entry.name));
  state.uses = Object.fromEntries(Object.entries(state.uses).filter(([name]) => names.has(name)));
  if (!entries.length)
    fill(place, h("p", { class: "fine" }, "This orchestrator has no tools and no specialists: it only answers."));
  else {
    const rows = entries.map((entry) => entryRow(entry, state, save));
    fill(place, h("ul", { class: "entries" }, rows));
  }
}

function entryRow(entry, state, save) {
  const id = freshId("use");
  const about = freshId("about");
  const select = h(
    "select",
    { id, "aria-describedby": about },
    Object.entries(USES).map(([use, label]) =>
      h("option", { value: use, selected: state.uses[entry.name] === use }, label),
    ),
  );
  select.addEventListener("change", () => {
    state.uses[entry.name] = select.value;
    if (select.value === "allowed") delete state.uses[entry.name];
    save();
  });
  const facts = [
    entry.kind,
    price(entry.price),
    entry.latency ? `about ${entry.latency} s` : "",
    entry.destructive && "asks you first",
  ];
  return h(
    "li",
    { class: "entry" },
    h("label", { for: id }, entry.name),
    select,
    h(
      "p",
      { id: about, class: "fine" },
      entry.description,
      entry.description && h("br"),
      facts.filter(Boolean).join(" · "),
    ),
  );
}

function price(value) {
  if (!value) return "free";
  const parts = [];
  if (value.input || value.output)
    parts.push(`${dollars(value.input)} in, ${dollars(value.output)} out per million tokens`);
  if (value.call) parts.push(`${dollars(value.call)} a call`);
  return parts.join(", ") || "free";
}
