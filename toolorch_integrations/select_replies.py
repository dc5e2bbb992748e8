"""What a chosen specialist is asked in the `select` rendering, and what its reply or its tool's result holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from toolorch_integrations.observation import cut
from toolorch_integrations.select import ANSWER, DOCUMENT_CHARACTERS, REASON, SEARCH

_MAX_DOCUMENTS = 100
_TEXT_KEYS = ("page_content", "content", "text", "snippet", "body")

_TASKS = {
    REASON: "Do not answer yet. Write one self-contained Python program whose results help to answer the question. It "
    "runs in a fresh interpreter and only what it prints is seen, so print every intermediate result with a word on "
    "what it is. Put the program into a single ```python block.",
    SEARCH: "Do not answer yet. Decide which information is still missing to answer the question, and write one short "
    "search query that would find it. Put the query between <query> and </query>.",
    ANSWER: "Answer the question with the help of what stands above. Explain only what is needed, then put the final "
    "answer between <answer> and </answer>.",
}


def specialist_prompt(function: str, problem: str, context: str) -> str:
    """Return what the chosen specialist is asked."""
    return "\n\n".join(part for part in (context.strip("\n"), f"Question: {problem}", _TASKS[function]) if part)


def code_in(reply: str) -> str | None:
    """Return the program in a specialist's reply, its last Python block; None without one."""
    blocks = re.findall(r"```(?:python|py)[ \t]*\n(.*?)(?:```|\Z)", reply, re.DOTALL)
    blocks = blocks or re.findall(r"```[ \t]*\n(.*?)```", reply, re.DOTALL)
    return (blocks[-1].strip("\n") or None) if blocks else None


def query_in(reply: str) -> str | None:
    """Return the query in a specialist's reply, or the reply itself where it is a single line; None without one."""
    if "<query>" in reply:
        return _between(reply, "query")
    return None if "\n" in reply.strip() else reply.strip() or None


def answer_in(reply: str) -> str:
    """Return the answer in a specialist's reply: its last answer block, or all of it."""
    return _between(reply, "answer") or reply.strip()


def _between(reply: str, tag: str) -> str | None:
    blocks: list[str] = re.findall(rf"<{tag}>(.*?)</{tag}>", reply, re.DOTALL)
    return blocks[-1].strip() or None if blocks else None


def documents_in(result: Any) -> list[str]:
    """Return the documents in what a search tool returned, best first, each cut to what the policy will see of it.

    Args:
        result: A list of texts, of mappings or of documents with `page_content`; a mapping with a list of `results`;
            the JSON of one of these; or plain text, which is taken apart at its blank lines.
    """
    if isinstance(result, str):
        try:
            read = json.loads(result)
        except ValueError:
            read = None
        if not isinstance(read, (list, dict)):
            return _passages(cut(result))
        result = read
    if isinstance(result, Mapping) and isinstance(result.get("results"), list):
        result = result["results"]
    items = result if isinstance(result, (list, tuple)) else [result]
    texts = (_text_of(item).strip() for item in items[:_MAX_DOCUMENTS])
    return [text[:DOCUMENT_CHARACTERS] for text in texts if text]


def _text_of(item: Any) -> str:
    if isinstance(item, Mapping):
        text = next((item[key] for key in _TEXT_KEYS if isinstance(item.get(key), str)), None)
        title = item.get("title")
        if text is None:
            return json.dumps(item, ensure_ascii=False, default=str)
        return f"{title}\n{text}" if isinstance(title, str) and title else text
    return str(getattr(item, "page_content", item))


def _passages(text: str) -> list[str]:
    """Return a text as passages of at most `DOCUMENT_CHARACTERS`, split at blank lines where it can be."""
    passages: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        pieces = range(0, len(paragraph.strip()), DOCUMENT_CHARACTERS)
        for piece in (paragraph.strip()[start : start + DOCUMENT_CHARACTERS] for start in pieces):
            if passages and len(passages[-1]) + len(piece) + 2 <= DOCUMENT_CHARACTERS:
                passages[-1] += f"\n\n{piece}"
            else:
                passages.append(piece)
    return passages
