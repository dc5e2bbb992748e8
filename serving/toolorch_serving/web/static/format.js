// Numbers and times as people read them. Every function takes null for "not known".

const NONE = "–";

/** Dollars: three figures that count below a dollar, at least two places, and never "0" for a price that is small. */
export function dollars(value) {
  if (!Number.isFinite(value)) return NONE;
  if (value === 0) return "$0";
  const places = 2 - Math.floor(Math.log10(Math.abs(value)));
  return `${value < 0 ? "-" : ""}$${Math.abs(value)
    .toFixed(Math.min(10, Math.max(places, 2)))
    .replace(/(\.\d\d+?)0+$/, "$1")}`;
}

/** Seconds, as milliseconds below a tenth and as minutes from two on. */
export function seconds(value) {
  if (!Number.isFinite(value)) return NONE;
  if (value < 0.1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function count(value) {
  return Number.isFinite(value) ? value.toLocaleString("en") : NONE;
}

export function percent(value, places = 0) {
  return Number.isFinite(value) ? `${(100 * value).toFixed(places)} %` : NONE;
}

/** "1 turn", "2 turns". */
export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const SHORT = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
});

/** Epoch seconds as date and time. */
export function time(value, short = false) {
  return Number.isFinite(value) ? (short ? SHORT : FULL).format(new Date(value * 1000)) : NONE;
}

/** Arguments of a call: one line where that is readable, else indented. */
export function json(value) {
  if (value === undefined || value === null) return "";
  if (typeof value === "string") return value;
  const line = JSON.stringify(value);
  return line.length <= 72 ? line : JSON.stringify(value, null, 2);
}

/** A flat object in one line: "quality 1 · cost 0.6"; fields that are not set are left out. */
export function pairs(object) {
  const given = Object.entries(object).filter(([, value]) => value !== null && value !== "" && json(value) !== "{}");
  return given.map(([key, value]) => `${key} ${json(value)}`).join(" · ");
}

/** A message's content as text: a string, or a list of parts of which texts are shown and others named. */
export function content(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.map((part) => part?.text ?? `[${part?.type ?? "part"}]`).join("\n");
  return json(value);
}

export function shortened(text, length) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length - 1)}…` : line;
}
