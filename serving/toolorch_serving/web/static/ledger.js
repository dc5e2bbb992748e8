// The ledger of a trace: every policy, tool and specialist call with its price, in the order of the messages.

import { h } from "./dom.js";
import { dollars, json, seconds } from "./format.js";
import { STATUS, argumentsText, resultText } from "./steps.js";
import { table } from "./table.js";

export function ledger({ nodes = [], calls = [] }) {
  const rows = inOrder(nodes, calls);
  if (!rows.length) return h("p", { class: "none" }, "Nothing was called.");
  const sum = (key) => rows.reduce((total, row) => total + (row[key] ?? 0), 0);
  const columns = [
    { title: "Call", cell: (row) => h("code", {}, row.name) },
    { title: "Kind", cell: (row) => row.kind },
    { title: "Status", cell: (row) => status(row) },
    { title: "Message", number: true, cell: (row) => row.node ?? "–" },
    { title: "Dollars", number: true, cell: (row) => dollars(row.dollars) },
    { title: "Seconds", number: true, cell: (row) => seconds(row.seconds) },
    { title: "Arguments and result", cell: detail },
  ];
  const total = ["Total", "", "", "", dollars(sum("dollars")), seconds(sum("seconds")), ""];
  return table("Calls in the order of the messages", columns, rows, { total });
}

/** Policy calls stand in the graph, the others in a list of their own: put each after the message that asked for it. */
function inOrder(nodes, calls) {
  const asked = new Map();
  for (const call of calls) asked.set(call.node ?? null, [...(asked.get(call.node ?? null) ?? []), call]);
  const rows = [];
  for (const node of nodes) {
    if (node.turn && node.turn.is_policy !== false)
      rows.push({
        name: node.turn.model || "policy",
        kind: "policy",
        status: "ok",
        node: node.index,
        dollars: node.turn.dollars,
        seconds: node.turn.seconds,
      });
    rows.push(...(asked.get(node.index) ?? []));
    asked.delete(node.index);
  }
  return [...rows, ...[...asked.values()].flat()];
}

function status({ status: name, confirmed }) {
  const known = STATUS[name] ?? { word: name, mark: "·" };
  return h(
    "span",
    { class: "badge", data: { status: name } },
    h("span", { "aria-hidden": "true" }, known.mark, " "),
    known.word,
    confirmed && ", approved",
  );
}

function detail(row) {
  if (row.kind === "policy" && !row.error) return "–";
  return [
    argumentsText(row.arguments),
    row.error ? h("p", { class: "error-text" }, row.error) : resultText(json(row.result)),
  ];
}
