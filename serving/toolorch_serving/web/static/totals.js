// What a run has used so far, against its budget.

import { fill, h } from "./dom.js";
import { count, dollars, seconds } from "./format.js";

const TICK = 500; // milliseconds between two looks at the clock

export class Totals {
  #spent = { turns: 0, dollars: 0, seconds: 0 };
  #meters;
  #since = 0;
  #before = 0;
  #timer = 0;

  /** `budget` has the limits that the caller set, each of which may be missing. */
  constructor(budget) {
    this.#meters = {
      turns: new Meter("Turns", count, budget.turns),
      dollars: new Meter("Dollars", dollars, budget.dollars),
      seconds: new Meter("Seconds", seconds, budget.seconds),
    };
    this.element = h(
      "dl",
      { class: "totals" },
      Object.values(this.#meters).map((meter) => meter.element),
    );
    this.#draw();
  }

  /** The clock runs; time that a person takes to decide does not count. */
  start() {
    this.#since = performance.now();
    this.#timer = setInterval(() => this.#draw(), TICK);
  }

  pause() {
    clearInterval(this.#timer);
    this.#before = this.#elapsed();
    this.#since = 0;
  }

  /** A policy call; its cost counts at once, the exact total comes with the next result. */
  turn({ round, dollars: money }) {
    this.#spent.turns = Math.max(this.#spent.turns, round ?? 0);
    if (Number.isFinite(money)) this.#spent.dollars += money;
    this.#draw();
  }

  call({ total }) {
    this.#set(total ?? {});
  }

  end(summary) {
    this.#before = Number.isFinite(summary.seconds) ? summary.seconds : this.#elapsed();
    this.#since = 0;
    clearInterval(this.#timer);
    this.#set({ turns: summary.rounds, dollars: summary.dollars });
  }

  #set(total) {
    for (const key of ["turns", "dollars"]) if (Number.isFinite(total[key])) this.#spent[key] = total[key];
    this.#draw();
  }

  #elapsed() {
    return this.#before + (this.#since ? (performance.now() - this.#since) / 1000 : 0);
  }

  #draw() {
    this.#spent.seconds = this.#elapsed();
    for (const [key, meter] of Object.entries(this.#meters)) meter.set(this.#spent[key]);
  }
}

class Meter {
  constructor(name, format, limit) {
    this.format = format;
    this.limit = Number.isFinite(limit) ? limit : null;
    this.text = h("span", {});
    this.bar =
      this.limit === null
        ? null
        : h("progress", { max: this.limit || 1, value: 0, "aria-label": `${name} of the budget` });
    this.element = h("div", { class: "total" }, h("dt", {}, name), h("dd", {}, this.text, this.bar));
  }

  set(value) {
    const over = this.limit !== null && value >= this.limit;
    const limit = this.limit === null ? "" : ` of ${this.format(this.limit)}`;
    fill(this.text, this.format(value), h("span", { class: "limit" }, limit, over && " · used up"));
    if (this.bar) this.bar.value = Math.min(value, this.limit);
    this.element.classList.toggle("over", over);
  }
}
