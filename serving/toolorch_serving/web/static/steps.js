// The steps of a run as they happen: turns of the policy, and the calls that each asked for.

import { add, fill, h, unseen } from "./dom.js";
import { dollars, json, seconds, shortened } from "./format.js";

const LONG = 240; // characters of a result that show without a click

/** Words and marks for the status of a call; a mark never stands without its word. */
export const STATUS = {
  running: { word: "running", mark: "…" },
  waiting: { word: "waits for your decision", mark: "?" },
  ok: { word: "done", mark: "✓" },
  error: { word: "failed", mark: "✕" },
  timeout: { word: "timed out", mark: "✕" },
  unknown: { word: "no such entry", mark: "✕" },
  malformed: { word: "arguments do not fit", mark: "✕" },
  refused: { word: "refused by a person", mark: "–" },
  budget: { word: "not made, the budget had ended", mark: "–" },
  stopped: { word: "stopped", mark: "–" },
};

export class Steps {
  #turns = new Map();
  #calls = new Map();
  #last = null;

  constructor() {
    this.element = h("ol", { class: "steps", "aria-label": "Steps" });
  }

  /** Whether anything has happened yet. */
  get any() {
    return this.element.childElementCount > 0;
  }

  /** A policy call: its number, what the policy wrote, what it cost. A repeated number (after a decision) is the same turn. */
  turn({ round, text = "", dollars: money, seconds: time }) {
    const turn = this.#turns.get(round) ?? this.#newTurn(round);
    this.#last = turn;
    turn.text = text ?? "";
    fill(turn.cost, cost(money, time));
    fill(
      turn.why,
      turn.text.trim() ? h("p", {}, turn.text.trim()) : h("p", { class: "none" }, "The policy wrote no reason."),
    );
  }

  #newTurn(round) {
    const turn = {
      why: h("div", { class: "why" }),
      cost: h("span", { class: "cost" }),
      calls: h("ul", { class: "calls" }),
    };
    const head = h("div", { class: "turn-head" }, h("h3", {}, `Turn ${round}`), turn.cost);
    this.element.append(h("li", { class: "turn" }, head, turn.why, turn.calls));
    this.#turns.set(round, turn);
    return turn;
  }

  /** A call begins. */
  call({ tool, arguments: given, call_id: id, kind }) {
    this.#status(this.#card(id, tool, kind, given), "running");
  }

  /** A call ended; returns the word for how. */
  result({ tool, result, call_id: id, status, kind, dollars: money, seconds: time }) {
    const card = this.#card(id, tool, kind);
    const known = this.#status(card, status);
    fill(card.cost, cost(money, time));
    fill(card.result, resultText(json(result)));
    return known.word;
  }

  /** The final answer is there: a turn that says just the same does not repeat it. */
  answers(text) {
    if (this.#last && this.#last.text.trim() === text.trim()) fill(this.#last.why, h("p", {}, "Answers."));
  }

  /** A call waits for the person. */
  waits({ call_id: id, tool, arguments: given }) {
    const card = this.#card(id, tool, "", given);
    this.#status(card, "waiting");
    return card;
  }

  /** Resolves when the person wants to decide on a call that waits. */
  asked(call) {
    const card = this.waits(call);
    return new Promise((resolve) => {
      const click = () => {
        fill(card.result);
        resolve(true);
      };
      const button = h(
        "button",
        { type: "button", class: "primary", on: { click } },
        "Decide",
        unseen(` on ${call.tool}`),
      );
      fill(card.result, button);
      button.focus();
    });
  }

  /** The person decided: the call goes on, or will come back as refused. */
  decided({ call_id: id, tool, arguments: given }, approved) {
    const card = this.#card(id, tool, "", given);
    this.#status(card, approved ? "running" : "refused");
    fill(card.state, approved ? "approved by you" : "refused by you");
  }

  /** Something went wrong that did not end the run. */
  note(text) {
    this.element.append(h("li", { class: "note" }, h("strong", {}, "Note: "), text));
  }

  /** The run was cut: nothing is running any more. */
  cut() {
    for (const card of this.#calls.values()) if (card.item.dataset.status === "running") this.#status(card, "stopped");
  }

  #card(id, tool, kind, given) {
    const known = this.#calls.get(id);
    if (known) return known;
    if (!this.#last) this.turn({ round: 1 });
    const card = {
      mark: h("span", { class: "mark", "aria-hidden": "true" }),
      state: h("span", { class: "call-state" }),
      cost: h("span", { class: "cost" }),
      result: h("div", { class: "call-result" }),
    };
    const name = h("code", { class: "call-name" }, tool);
    const head = h(
      "div",
      { class: "call-head" },
      card.mark,
      name,
      kind && h("span", { class: "kind" }, kind),
      card.state,
      card.cost,
    );
    card.item = h("li", { class: "call" }, head, argumentsText(given), card.result);
    this.#last.calls.append(card.item);
    this.#calls.set(id, card);
    return card;
  }

  #status(card, status) {
    const known = STATUS[status] ?? { word: status ?? "ended", mark: "·" };
    card.item.dataset.status = status;
    fill(card.mark, status === "running" ? h("span", { class: "spinner" }) : known.mark);
    fill(card.state, known.word);
    return known;
  }
}

function cost(money, time) {
  return [dollars(money), seconds(time)].join(" · ");
}

/** The arguments of a call: what it was asked, in the policy's own words. */
export function argumentsText(given) {
  const text = json(given);
  if (!text || text === "{}") return null;
  return h("pre", { class: "arguments" }, text);
}

/** A result: whole when short, else its beginning with the rest a click away. */
export function resultText(text) {
  if (!text) return h("p", { class: "none" }, "Nothing came back.");
  if (text.length <= LONG && text.split("\n").length <= 6) return h("pre", { class: "result" }, text);
  const summary = h(
    "summary",
    {},
    h("span", { class: "when-closed" }, shortened(text, 160)),
    h("span", { class: "when-open" }, "The whole result"),
  );
  return add(h("details", { class: "long" }, summary), h("pre", { class: "result" }, text));
}
