// The gateway's HTTP API: JSON requests, and a run's Server-Sent Events over a fetch stream (EventSource cannot POST).

import { apiKey } from "./session.js";
import { parseEvents } from "./sse.js";

const BASE = new URL(".", location.href); // the page may live behind a path prefix
const SECONDS = 30;

/** A refusal or a failure, with what the person can do about it. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "", param = "", fix = "", retryAfter = null, settings = false } = {}) {
    super(message);
    Object.assign(this, { status, code, param, fix, retryAfter, settings });
  }
}

export const get = (path, query = {}) => request(path, { query });
export const post = (path, body) => request(path, { method: "POST", body });

async function request(path, { method = "GET", query = {}, body } = {}) {
  const url = new URL(path, BASE);
  for (const [key, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(key, value);
  }
  const response = await send(url, { method, body, signal: AbortSignal.timeout(SECONDS * 1000) });
  return response.status === 204 ? null : answer(response);
}

/**
 * Ask the orchestrator. Yields {event, data} for each event.
 * Raises ApiError when the gateway refuses, cannot be reached, or the stream breaks; AbortError when `signal` says so.
 */
export async function* stream(body, signal) {
  const response = await send(new URL("api/chat/orchestrator/stream", BASE), { method: "POST", body, signal });
  const type = response.headers.get("content-type") ?? "";
  if (!type.startsWith("text/event-stream")) {
    throw new ApiError(`The gateway answered with ${type || "no content type"} where a stream of events was due.`, {
      fix: "Does something between this page and the gateway change its answers? A proxy must pass text/event-stream.",
    });
  }
  try {
    yield* parseEvents(response.body);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) {
      throw new ApiError("The gateway sent an event that is not JSON.", {
        fix: "Are page and gateway of one version? Reload the page.",
      });
    }
    throw new ApiError("The connection to the gateway broke while the run was under way.", {
      fix: "Check the network, then ask again in the same conversation. What the run did so far is in its trace.",
    });
  }
}

async function send(url, { method, body, signal }) {
  const headers = { Accept: "application/json, text/event-stream" };
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(
      error.name === "TimeoutError"
        ? `The gateway did not answer within ${SECONDS} seconds.`
        : "The gateway cannot be reached.",
      { fix: `Is it running at ${BASE.origin}? Check the network, then try again.` },
    );
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function answer(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError("The gateway's answer is not JSON.", { status: response.status, fix: "Look into its log." });
  }
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const said = body?.error ?? {};
  const fallback = `The gateway answered ${response.status} ${response.statusText}`.trim() + ".";
  const message = said.message ?? (typeof body?.detail === "string" ? body.detail : fallback);
  const after = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return new ApiError(String(message), {
    status: response.status,
    code: said.code ?? said.type ?? "",
    param: said.param ?? "",
    retryAfter: Number.isFinite(after) ? after : null,
    ...FIXES[response.status],
  });
}

// What to do, where the status alone tells; the gateway's own message comes first.
const FIXES = {
  401: { fix: "Enter an API key of this gateway in the settings.", settings: true },
  403: { fix: "This key may not do that: use one whose roles allow it.", settings: true },
  404: { fix: "It may have been removed, or the gateway is an older one." },
  413: { fix: "Send a shorter question." },
  429: { fix: "Wait, or ask whoever runs the gateway for a higher limit." },
  502: { fix: "The policy server does not answer. Try again in a moment." },
  503: { fix: "The gateway is starting, stopping or overloaded. Try again in a moment." },
};
