// One question and all that comes of it: steps, decisions of the person, the answer, what the person thought of it.

import { ApiError, stream } from "./api.js";
import { decide } from "./approvals.js";
import { add, announce, fill, h } from "./dom.js";
import { feedbackForm } from "./feedback.js";
import { count, dollars, plural, seconds } from "./format.js";
import { problem } from "./problem.js";
import { prose } from "./prose.js";
import { Steps } from "./steps.js";
import { Totals } from "./totals.js";

// How a run ended, by the trace's status; an answered one needs no words.
const ENDINGS = {
  budget: "The budget ended: this is what the orchestrator had by then.",
  interrupted: "The run was interrupted.",
};

/** Runs one question; `options` are the request's fields from the choices, `threadId` is empty for a new
 *  conversation, `retry` asks the question anew where nothing came of it. */
export class Exchange {
  constructor(query, options, threadId, retry) {
    this.retry = retry;
    this.query = query;
    this.threadId = threadId;
    this.traceId = "";
    this.body = options;
    this.steps = new Steps();
    this.totals = new Totals(this.body.budget ?? {});
    this.state = h("p", { class: "state" });
    this.answer = h("div", { class: "answer-place" });
    this.foot = h("div", { class: "exchange-foot" });
    this.element = h(
      "article",
      { class: "exchange", "aria-label": `Question: ${query}` },
      h("div", { class: "question" }, h("h2", { class: "label" }, "You"), h("p", {}, query)),
      this.totals.element,
      this.steps.element,
      this.state,
      this.answer,
      this.foot,
    );
  }

  /** Run until the question is answered, refused, stopped or failed. Never raises. */
  async run() {
    let decisions = null;
    do {
      const summary = await this.#stream(decisions);
      if (!summary) return;
      const waiting = summary.confirmations ?? [];
      if (!waiting.length) return this.#end(summary);
      decisions = await this.#decisions(waiting);
    } while (decisions);
  }

  stop() {
    this.controller?.abort();
    this.stopWaiting?.();
  }

  async #stream(decisions) {
    this.controller = new AbortController();
    this.#say("Working …", true);
    this.totals.start();
    try {
      const body = decisions ? this.#decided(decisions) : { query: this.query, ...this.body };
      if (this.threadId) body.thread_id = this.threadId;
      for await (const { event, data } of stream(body, this.controller.signal)) {
        const followed = isInView(this.state);
        const summary = this.#take(event, data);
        if (followed) this.state.scrollIntoView({ block: "nearest" });
        if (summary) return summary;
      }
      if (this.fault) throw this.fault;
      throw new ApiError("The gateway ended the stream before the run had ended.", {
        fix: "Ask again in the same conversation. What the run did so far is in its trace.",
      });
    } catch (error) {
      this.#failed(error, decisions);
      return null;
    } finally {
      this.totals.pause();
    }
  }

  // A run that goes on after a decision keeps the options that it began with.
  #decided(decisions) {
    const { orchestrator } = this.body;
    return { query: "", decisions, ...(orchestrator ? { orchestrator } : {}) };
  }

  // What each event of the chat service means for the page. An error does not always end the run: a search may be
  // limited, or a specialist may answer in the policy's place. It is a note among the steps unless nothing follows.
  #take(event, data) {
    const ends = event === "complete" && data.summary?.status === "error";
    if (this.fault && !ends) this.steps.note(this.fault.message);
    if (!ends) this.fault = null;
    if (event === "start") {
      this.threadId = data.thread_id ?? this.threadId;
      this.traceId = data.trace_id ?? this.traceId;
    } else if (event === "round_start") {
      this.steps.turn(data);
      this.totals.turn(data);
      announce(`Turn ${data.round}. ${data.text ?? ""}`);
    } else if (event === "tool_call") {
      this.steps.call(data);
      this.#say(`Waiting for ${data.tool} …`, true);
      announce(`Calling ${data.tool}.`);
    } else if (event === "tool_result") {
      const word = this.steps.result(data);
      this.totals.call(data);
      this.#say("Working …", true);
      announce(`${data.tool}: ${word}, ${dollars(data.dollars)}, ${seconds(data.seconds)}.`);
    } else if (event === "final_answer") {
      this.#answered(data.content ?? "");
    } else if (event === "error") {
      this.fault = new ApiError(data.message ?? "The run failed.", { code: data.code ?? "", param: data.param ?? "" });
    }
    return event === "complete" ? (data.summary ?? {}) : null;
  }

  #answered(text) {
    this.steps.answers(text);
    this.finalText = text;
    fill(
      this.answer,
      h("section", { class: "answer", "aria-label": "Answer" }, h("h3", { class: "label" }, "Answer"), prose(text)),
    );
    announce(`Answer: ${text}`);
  }

  #end(summary) {
    this.traceId = summary.trace_id || this.traceId;
    this.totals.end(summary);
    this.steps.cut();
    if (summary.status === "error")
      add(this.foot, problem(this.fault ?? new ApiError("The run failed without a reason.")));
    this.#say(ENDINGS[summary.status] ?? "");
    const facts = [
      plural(summary.rounds ?? 0, "turn"),
      plural(total(summary.calls), "call"),
      dollars(summary.dollars),
      seconds(summary.seconds),
      `${count(summary.input_tokens)} tokens in, ${count(summary.output_tokens)} out`,
      summary.policy_version && `version ${summary.policy_version}`,
    ];
    add(
      this.foot,
      h("p", { class: "summary" }, facts.filter(Boolean).join(" · ")),
      this.#trace(),
      this.traceId && feedbackForm(this.traceId),
    );
    announce(`Finished: ${facts.slice(0, 4).join(", ")}.`);
  }

  async #decisions(waiting) {
    this.#say(
      waiting.length === 1 ? "A call waits for your decision." : `${waiting.length} calls wait for your decision.`,
    );
    for (const call of waiting) this.steps.waits(call);
    const decided = {};
    const stopped = new Promise((resolve) => {
      this.stopWaiting = () => resolve(null);
    });
    for (const [index, call] of waiting.entries()) {
      let answer = await decide(call, index, waiting.length, stopped);
      while (answer === "later") {
        this.#say("The run waits. Nothing is spent meanwhile.");
        if ((await Promise.race([this.steps.asked(call), stopped])) === null) answer = null;
        else answer = await decide(call, index, waiting.length, stopped);
      }
      if (answer === null) {
        this.threadId = ""; // the gateway's conversation goes on waiting; it takes no other question
        this.#ended("Stopped. The calls that waited were not made. The next question begins a new conversation.");
        return null;
      }
      decided[call.call_id] = answer;
      this.steps.decided(call, answer);
    }
    return decided;
  }

  #failed(error, decisions) {
    this.steps.cut();
    if (error.name === "AbortError")
      this.#ended("Stopped. No further call is made; what was spent until then stays spent.");
    else {
      this.#say("");
      if (error.code === "thread_not_found") {
        this.threadId = "";
        error.fix = "The gateway no longer has this conversation. The next question begins a new one.";
      }
      const again = decisions || this.steps.any ? null : this.retry;
      add(this.foot, problem(error, again), this.#trace());
    }
  }

  #ended(text) {
    this.#say(text);
    announce(text);
    add(this.foot, this.#trace());
  }

  #trace() {
    return (
      this.traceId && h("p", {}, h("a", { href: `#/traces/${encodeURIComponent(this.traceId)}` }, "Open the trace"))
    );
  }

  #say(text, busy = false) {
    fill(this.state, busy && h("span", { class: "spinner", "aria-hidden": "true" }), text);
    this.state.hidden = !text;
  }
}

// Calls are counted by name.
function total(calls) {
  return Object.values(calls ?? {}).reduce((sum, number) => sum + number, 0);
}

// Whoever has scrolled away to read is left there; all others see the newest step.
function isInView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return top < innerHeight && bottom > 0;
}
