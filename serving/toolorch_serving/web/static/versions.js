// Policy versions: which one serves, how each came to be promoted or not, and by hand: promote, roll back.

import { get, post } from "./api.js";
import { add, announce, fill, freshId, h, unseen } from "./dom.js";
import { json, percent, time } from "./format.js";
import { ask } from "./dialog.js";
import { empty, loading, problem } from "./problem.js";
import { table } from "./table.js";

export function versionsView() {
  const place = h("div", {});
  draw(place);
  return h("div", { class: "wide" }, h("h1", { tabindex: "-1" }, "Policy versions"), place);
}

async function draw(place, said = "") {
  if (!said) fill(place, loading("the versions"));
  try {
    const versions = await get("v1/versions");
    const trouble = h("div", {});
    const change = (path, body) => act(place, trouble, path, body);
    fill(
      place,
      said && h("p", { class: "notice", tabindex: "-1" }, said),
      standing(versions, change),
      trouble,
      served(versions, change),
      past(versions),
    );
    place.querySelector(".notice")?.focus();
  } catch (error) {
    fill(
      place,
      problem(error, () => draw(place)),
    );
  }
}

function standing({ current, candidate, share, history = [] }, change) {
  const goesBack = candidate || history.some(({ step }) => step === "promoted");
  const title = candidate ? `Take ${candidate} back?` : `Roll back from ${current}?`;
  const text = candidate
    ? `All runs go to ${current} again.`
    : "The version that served before serves again, for all new runs.";
  const click = () => confirmed(title, text, "Roll back", (reason) => change("v1/versions/roll_back", { reason }));
  const facts = [
    ["Serves", h("code", {}, current || "none")],
    candidate && ["Candidate", [h("code", {}, candidate), ` gets ${percent(share, 1)} of the runs`]],
  ];
  return h(
    "section",
    { class: "card", "aria-label": "Now" },
    h("h2", {}, "Now"),
    h(
      "dl",
      { class: "facts" },
      facts.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
    goesBack
      ? h(
          "p",
          {},
          h("button", { type: "button", on: { click } }, candidate ? `Roll back ${candidate} …` : "Roll back …"),
        )
      : h("p", { class: "fine" }, "There is nothing to roll back: no version has been promoted here."),
    h(
      "p",
      { class: "fine" },
      "Promoting and rolling back take a key with the role admin. Every step is recorded with its reason.",
    ),
  );
}

function served({ current, candidate, served: names = [], served_error: trouble }, change) {
  const promote = (name) =>
    confirmed(
      `Promote ${name}?`,
      `All new runs go to ${name} instead of ${current ?? "none"}. By hand no gate looks at it: toolorch promote does.`,
      "Promote",
      (reason) => change("v1/versions/promote", { version: name, reason }),
    );
  const columns = [
    { title: "Version", cell: (name) => h("code", {}, name) },
    { title: "State", cell: (name) => (name === current ? "serves" : name === candidate ? "candidate" : "loaded") },
    {
      title: "Action",
      cell: (name) =>
        name === current
          ? "–"
          : h("button", { type: "button", on: { click: () => promote(name) } }, "Promote", unseen(` ${name}`), " …"),
    },
  ];
  return h(
    "section",
    { class: "card", "aria-label": "Loaded versions" },
    h("h2", {}, "Loaded on the server"),
    names.length
      ? table("Versions that the policy server has loaded", columns, names)
      : h("p", { class: "none" }, trouble || "The policy server names no versions."),
  );
}

function past({ history = [] }) {
  if (!history.length)
    return empty(
      "No promotions yet",
      "toolorch promote puts a candidate through estimate, held-out tasks and a canary; its steps are listed here.",
    );
  const columns = [
    { title: "Time", cell: (row) => time(row.time, true) },
    { title: "Candidate", cell: (row) => h("code", {}, row.candidate) },
    { title: "Step", cell: (row) => row.step },
    { title: "Against", cell: (row) => h("code", {}, row.incumbent) },
    { title: "Share", number: true, cell: (row) => percent(row.share, 1) },
    { title: "Reason", cell: (row) => [row.reason || "–", evidence(row.evidence)] },
  ];
  const newest = [...history].sort((a, b) => b.time - a.time);
  return h(
    "section",
    { class: "card", "aria-label": "History" },
    h("h2", {}, "History"),
    table("Promotions, newest first", columns, newest),
  );
}

function evidence(value) {
  if (!value || !Object.keys(value).length) return null;
  return h("details", {}, h("summary", {}, "Evidence"), h("pre", { class: "result" }, json(value)));
}

// A change by hand always says why.
async function confirmed(title, text, label, change) {
  const id = freshId("reason");
  const input = h("input", { id, type: "text", required: true, maxlength: "500", autocomplete: "off" });
  const answer = await ask({
    title,
    content: [h("p", {}, text), h("label", { for: id }, "Reason (it is recorded)"), input],
    buttons: [
      { label: "Cancel", value: () => null, focus: true },
      { label, value: () => input.value.trim(), kind: "danger", check: () => input.reportValidity() },
    ],
    escape: null,
  });
  if (answer) await change(answer);
}

async function act(place, trouble, path, body) {
  try {
    await post(path, body);
    const said = body.version ? `${body.version} was promoted.` : "Rolled back.";
    announce(said);
    await draw(place, said);
  } catch (error) {
    const needs = error.status === 403 ? h("p", {}, "Your key lacks the role admin. Nothing was changed.") : null;
    fill(trouble, add(problem(error), needs));
    trouble.scrollIntoView({ block: "nearest" });
  }
}
