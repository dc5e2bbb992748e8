// One captured run: what was asked and answered, its message graph, a message with its tokens, its ledger and rewards.

import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { content, count, dollars, pairs, percent, seconds, time } from "./format.js";
import { feedbackForm } from "./feedback.js";
import { messageGraph } from "./graph.js";
import { ledger } from "./ledger.js";
import { loading, problem } from "./problem.js";
import { prose } from "./prose.js";
import { argumentsText } from "./steps.js";
import { table } from "./table.js";
import { tokens } from "./tokens.js";
import { statusBadge } from "./traces.js";

export function traceView(id) {
  const place = h("div", {});
  draw(place, id);
  return h(
    "div",
    { class: "wide" },
    h("p", { class: "crumb" }, h("a", { href: "#/traces" }, "Traces")),
    h("h1", { tabindex: "-1" }, "Trace ", h("code", { class: "trace-id" }, id)),
    place,
  );
}

async function draw(place, id) {
  fill(place, loading("the trace"));
  try {
    const trace = await get(`v1/traces/${encodeURIComponent(id)}`);
    fill(place, summary(trace), graph(trace), costs(trace), opinions(trace));
  } catch (error) {
    fill(
      place,
      problem(error, () => draw(place, id)),
    );
  }
}

function summary(trace) {
  const totals = trace.totals ?? {};
  const facts = [
    ["Status", statusBadge(trace.status)],
    ["Started", time(trace.started)],
    ["App", [trace.app, trace.framework].filter(Boolean).join(" · ") || "–"],
    [
      "Conversation",
      trace.thread_id
        ? h("a", { href: `#/traces?${new URLSearchParams({ thread_id: trace.thread_id })}` }, trace.thread_id)
        : "–",
    ],
    ["Policy versions", (trace.policy_versions ?? []).join(", ") || "–"],
    ["Cost", `${dollars(totals.dollars)} · ${seconds(totals.seconds)}`],
    [
      "Size",
      `${count(totals.turns)} turns · ${count(totals.calls)} calls · ${count(totals.input_tokens)} tokens in, ${count(totals.output_tokens)} out`,
    ],
    ["Exact", trace.exact ? "yes: every id is the server's own" : "no: some ids are missing or redacted"],
    trace.preferences && ["Preferences", pairs(trace.preferences)],
    trace.budget && ["Budget", pairs(trace.budget)],
    trace.error && ["Error", trace.error],
  ];
  return h(
    "section",
    { class: "card", "aria-label": "Summary" },
    h("h2", { class: "label" }, "Request"),
    h("p", { class: "request" }, trace.request || "–"),
    trace.answer && [h("h2", { class: "label" }, "Answer"), prose(trace.answer)],
    h(
      "dl",
      { class: "facts columns" },
      facts.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
  );
}

function graph(trace) {
  const detail = h("div", { class: "message", "aria-live": "polite" });
  const show = (node) => fill(detail, message(node));
  const nodes = trace.nodes ?? [];
  if (!nodes.length)
    return h(
      "section",
      { class: "card" },
      h("h2", {}, "Messages"),
      h("p", { class: "none" }, "The trace has no messages yet."),
    );
  // What a person looks for first is what the policy said last.
  const chosen = nodes.findLast((node) => node.turn) ?? nodes.at(-1);
  show(chosen);
  return h(
    "section",
    { class: "card", "aria-label": "Message graph" },
    h("h2", {}, "Message graph"),
    h(
      "p",
      { class: "fine" },
      "Time runs down. Where the history was edited or a subagent worked, the graph has branches. Squares were sampled by a model, rings are results of calls, dots were written by the app. Choose a message to read it.",
    ),
    h("div", { class: "graph-and-message" }, messageGraph(nodes, chosen.index, show), detail),
  );
}

function message(node) {
  const turn = node.turn;
  const facts = turn && [
    ["Policy version", turn.model || "–"],
    ["Cost", `${dollars(turn.dollars)} · ${seconds(turn.seconds)}`],
    ["Sampling", pairs(turn.sampling ?? {}) || "–"],
    ["Probability", percent(mean(node.tokens), 1)],
  ];
  const text = content(node.content);
  return [
    h("h3", {}, `Message ${node.index} · ${node.role || "prompt"}`),
    text ? h("pre", { class: "result" }, text) : h("p", { class: "none" }, "No text."),
    (node.tool_calls ?? []).map((call) =>
      h(
        "div",
        { class: "asked" },
        h("p", {}, "Calls ", h("code", {}, call.function?.name ?? call.name ?? "?")),
        argumentsText(parsed(call.function?.arguments ?? call.arguments)),
      ),
    ),
    node.tool_call_id && h("p", { class: "fine" }, `Result of call ${node.tool_call_id}`),
    facts &&
      h(
        "dl",
        { class: "facts" },
        facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
      ),
    tokens(node.tokens ?? []),
  ];
}

// Geometric mean of the sampled tokens' probabilities.
function mean(list) {
  const known = (list ?? []).map((token) => token.logprob).filter(Number.isFinite);
  return known.length ? Math.exp(known.reduce((sum, value) => sum + value, 0) / known.length) : null;
}

function parsed(text) {
  try {
    return typeof text === "string" ? JSON.parse(text) : text;
  } catch {
    return text;
  }
}

function costs(trace) {
  return h("section", { class: "card", "aria-label": "Ledger" }, h("h2", {}, "Ledger"), ledger(trace));
}

function opinions(trace) {
  const rewards = (trace.rewards ?? []).map((reward) => ({
    what: "reward",
    by: reward.verifier,
    value: pairs(reward.values),
    when: reward.created,
  }));
  const feedback = (trace.feedback ?? []).map((item) => ({
    what: "feedback",
    by: item.name,
    value: [item.score, item.comment].filter((part) => part !== "" && part !== null).join(" · "),
    when: item.created,
  }));
  const rows = [...feedback, ...rewards];
  const columns = [
    { title: "Kind", cell: (row) => row.what },
    { title: "By", cell: (row) => row.by || "–" },
    { title: "Value", cell: (row) => row.value },
    { title: "When", cell: (row) => time(row.when, true) },
  ];
  return h(
    "section",
    { class: "card", "aria-label": "Feedback and rewards" },
    h("h2", {}, "Feedback and rewards"),
    rows.length
      ? table("Feedback and rewards", columns, rows)
      : h("p", { class: "none" }, "Nobody has rated this run yet."),
    feedbackForm(trace.id),
  );
}
