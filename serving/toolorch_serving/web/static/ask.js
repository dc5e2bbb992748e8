// The view in which a person asks: a conversation, the box to write in, and the choices that go with a question.

import { announce, freshId, h } from "./dom.js";
import { Exchange } from "./exchange.js";
import { optionsPanel } from "./options.js";
import { empty } from "./problem.js";

const SAMPLES = [
  "A train travels 180 km in 2.5 hours. How long does it take for 300 km at the same speed?",
  "What is the population of Tokyo?",
  "What is the sum of the first ten Fibonacci numbers?",
  "Find the newest Python version, then check with code whether this sandbox runs it.",
];

export function askView() {
  return new Conversation().element;
}

/** Questions and answers that share a thread. One run at a time. */
class Conversation {
  constructor() {
    this.threadId = "";
    this.current = null;
    this.options = optionsPanel();
    this.exchanges = h("div", { class: "exchanges" });
    this.box = this.#composer();
    this.fresh = h(
      "button",
      { type: "button", class: "quiet", hidden: true, on: { click: () => this.#restart() } },
      "New conversation",
    );
    this.welcome = this.#welcome();
    this.element = h(
      "div",
      { class: "ask" },
      h(
        "section",
        { class: "talk", "aria-label": "Conversation" },
        h("div", { class: "title-row" }, h("h1", { tabindex: "-1" }, "Ask the orchestrator"), this.fresh),
        this.welcome,
        this.exchanges,
        this.box.form,
      ),
      this.options.element,
    );
  }

  async ask(query) {
    this.welcome.hidden = true;
    this.fresh.hidden = false;
    const body = this.options.body();
    // A conversation is with one orchestrator: another one begins a new one.
    if (body.orchestrator !== this.orchestrator) this.threadId = "";
    this.orchestrator = body.orchestrator;
    const exchange = new Exchange(query, body, this.threadId, () => this.#again(exchange));
    this.current = exchange;
    this.exchanges.append(exchange.element);
    this.#busy(true);
    announce("The run has begun.");
    await exchange.run();
    if (this.current !== exchange) return; // a new conversation was begun meanwhile
    this.threadId = exchange.threadId;
    this.current = null;
    this.#busy(false);
  }

  #again(exchange) {
    if (this.current) return;
    exchange.element.remove();
    this.ask(exchange.query);
  }

  #composer() {
    const id = freshId("question");
    const input = h("textarea", {
      id,
      rows: "3",
      required: true,
      placeholder: "What do you want to know, or have done?",
    });
    const submit = h("button", { type: "submit", class: "primary" }, "Ask");
    const stop = h(
      "button",
      { type: "button", class: "stop", hidden: true, on: { click: () => this.current?.stop() } },
      "Stop the run",
    );
    const note = h("p", { class: "fine keys" }, "Ctrl + Enter asks.");
    const form = h(
      "form",
      { class: "composer" },
      h("label", { for: id }, "Your question"),
      input,
      h("div", { class: "composer-foot" }, note, h("div", { class: "row" }, stop, submit)),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const query = input.value.trim();
      if (!query) input.focus();
      else if (!this.current && this.options.valid()) {
        input.value = "";
        this.ask(query);
      }
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    return { form, input, submit, stop, note };
  }

  #busy(busy) {
    const { submit, stop, note, input } = this.box;
    const hadFocus = document.activeElement === stop || document.activeElement === submit;
    submit.hidden = busy;
    stop.hidden = !busy;
    note.textContent = busy
      ? "One run at a time: stop this one, or wait."
      : "Ctrl + Enter asks. It goes on in this conversation.";
    if (hadFocus) (busy ? stop : input).focus();
  }

  #restart() {
    this.current?.stop();
    this.current = null;
    this.threadId = "";
    this.exchanges.replaceChildren();
    this.welcome.hidden = false;
    this.fresh.hidden = true;
    this.#busy(false);
    this.box.input.focus();
  }

  #welcome() {
    const samples = SAMPLES.map((text) =>
      h("li", {}, h("button", { type: "button", class: "sample", on: { click: () => this.#take(text) } }, text)),
    );
    return h(
      "div",
      { class: "welcome" },
      empty(
        "Nothing asked yet",
        "The orchestrator calls tools, hands steps to specialist models, or answers, within your budget. You see each step as it happens, with its reason and its price.",
      ),
      h("h2", {}, "For example"),
      h("ul", { class: "samples" }, samples),
    );
  }

  #take(text) {
    this.box.input.value = text;
    this.box.input.focus();
  }
}
