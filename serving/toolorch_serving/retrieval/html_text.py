"""The text of an HTML page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_UNSEEN = {"script", "style", "template", "noscript", "svg", "head"}
_INLINE = {
    "a",
    "abbr",
    "b",
    "bdi",
    "cite",
    "code",
    "em",
    "font",
    "i",
    "kbd",
    "mark",
    "q",
    "s",
    "small",
    "span",
    "strong",
}
_INLINE |= {"sub", "sup", "time", "u", "var", "wbr", "img"}
_PARAGRAPHS = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "blockquote",
    "table",
    "ul",
    "ol",
    "dl",
    "section",
    "article",
}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title = ""
        self._unseen = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag == "body":
            self._unseen = 0  # a head that nobody closed
        elif tag not in _INLINE:
            self.parts.append("\n\n" if tag in _PARAGRAPHS else "\n")
            if re.fullmatch("h[1-6]", tag):
                self.parts.append(f"{'#' * int(tag[1])} ")

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag not in _INLINE:
            self.parts.append("\n\n" if tag in _PARAGRAPHS else "\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._unseen:
            self.parts.append(re.sub(r"\s+", " ", data))


def html_text(page: str) -> tuple[str, str]:
    """Return a page's text, headings marked as in Markdown, and its title."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    lines = [line.strip() for line in "".join(reader.parts).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), " ".join(reader.title.split())
