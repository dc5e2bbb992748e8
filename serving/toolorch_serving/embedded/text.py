"""From tokens to text as they come: whole characters only, and no further than a stop text allows."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

# A token that ends within a character decodes to this until its other bytes have come.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of one answer while it grows."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        skip_special: bool,
        stop: tuple[str, ...] = (),
        include_stop: bool = False,
    ) -> None:
        self.text = ""
        """All text so far, cut at the stop text."""
        self.stopped_by: str | None = None
        """The stop text that was met."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._stop = stop
        self._include_stop = include_stop
        self._hold = max(map(len, stop), default=1) - 1
        self._given = 0
        self._ids: list[int] = []
        self._decoded_from = 0
        self._decoded_to = 0

    def add(self, token: int) -> None:
        """Append a token; `stopped_by` tells whether it completed a stop text."""
        self._ids.append(token)
        # Decoding starts a few tokens back: some tokenizers write a leading space only in the middle of a text.
        before = self._decode(self._decoded_from, self._decoded_to)
        now = self._decode(self._decoded_from, len(self._ids))
        if len(now) <= len(before) or now.endswith(_INCOMPLETE):
            return
        self._append(now[len(before) :])
        self._decoded_from, self._decoded_to = self._decoded_to, len(self._ids)

    def take(self, *, last: bool = False) -> str:
        """Return the text that has become certain since the last call; `last` gives what is held back, too."""
        if last and self.stopped_by is None:
            before = self._decode(self._decoded_from, self._decoded_to)
            self._append(self._decode(self._decoded_from, len(self._ids))[len(before) :])
            self._decoded_from = self._decoded_to = len(self._ids)
        end = len(self.text) if last or self.stopped_by else max(self._given, len(self.text) - self._hold)
        piece = self.text[self._given : end]
        self._given = end
        return piece

    def _append(self, piece: str) -> None:
        start = max(0, len(self.text) - self._hold)
        self.text += piece
        found = [(at, stop) for stop in self._stop if (at := self.text.find(stop, start)) >= 0]
        if found:
            at, self.stopped_by = min(found)
            self.text = self.text[: at + len(self.stopped_by) * self._include_stop]

    def _decode(self, start: int, end: int) -> str:
        text = self._tokenizer.decode(self._ids[start:end], skip_special_tokens=self._skip_special)
        return text if isinstance(text, str) else "".join(text)
