// Server-Sent Events from a stream of bytes, as the HTML standard parses them, with JSON in every event's data.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

/** Yield {event, data} for each event of a stream. An event without data is dropped, as the standard says. */
export async function* parseEvents(stream) {
  let event = "";
  let data = [];
  for await (const line of lines(stream)) {
    if (line === "") {
      if (data.length) yield { event: event || "message", data: JSON.parse(data.join("\n")) };
      event = "";
      data = [];
      continue;
    }
    const colon = line.indexOf(":");
    if (colon === 0) continue; // a comment: servers send them to keep the connection alive
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") event = value;
    else if (field === "data") data.push(value);
  }
}

/** Yield lines, which end with LF, CRLF or CR; one that the stream leaves unfinished is dropped. */
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      // A CR at the end may be the first half of a CRLF: it waits for the next piece.
      const end = rest.endsWith("\r") ? rest.length - 1 : rest.length;
      const parts = rest.slice(0, end).split(/\r\n|\n|\r/);
      rest = parts.pop() + rest.slice(end);
      yield* parts;
    }
  } finally {
    // Whoever stops reading ends the request, and with it the run.
    await reader.cancel().catch(() => {});
  }
}
