"""The answer lists the right things, in any order; part of them earns part of the score."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from toolorch_rl.verifiers.exact import plain_text
from toolorch_rl.verifiers.verdict import NO_ANSWER, Verdict, VerifierError, answer_of, shortened

_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SetVerifier:
    """Compares sets of texts or numbers; the score is the F1 of what the answer lists.

    An answer may be a JSON list, bullets, or items between commas, semicolons or line breaks, the last after `and`.
    `details` has `missing` and `surplus`.

    Example:
        >>> SetVerifier().verify(["red", "green"], "Green, red and blue").score
        0.8
    """

    def verify(self, reference: Any, outcome: Any) -> Verdict:
        """Judge an answer; the reference is a collection of texts or numbers.

        Raises:
            VerifierError: The reference is no such collection, or is empty.
        """
        if isinstance(reference, str) or not isinstance(reference, Collection) or not reference:
            raise VerifierError(f"reference must be a list or set with at least one item, got {shortened(reference)}")
        wanted = _keys(reference, "reference")
        answer = outcome if _is_items(outcome) else answer_of(outcome)
        if isinstance(answer, str):
            if not answer.strip():
                return NO_ANSWER
            answer = _items(answer, keep_and=any(" and " in key for key in wanted))
        found = _keys(answer, "answer")
        missing, surplus = sorted(wanted - found), sorted(found - wanted)
        score = 2 * len(wanted & found) / (len(wanted) + len(found))
        if not missing and not surplus:
            return Verdict(1.0, True, f"all {len(wanted)} items are there", {"missing": [], "surplus": []})
        parts = [
            f"{label} {', '.join(map(repr, some[:5]))}"
            for label, some in (("missing", missing), ("surplus", surplus))
            if some
        ]
        return Verdict(score, False, "; ".join(parts), {"missing": missing, "surplus": surplus})


def _is_items(outcome: Any) -> bool:
    return isinstance(outcome, (list, tuple, set, frozenset))


def _keys(items: Iterable[Any], which: str) -> set[str]:
    keys = set()
    for item in items:
        if not isinstance(item, (str, int, float)):
            raise VerifierError(f"{which} holds {shortened(item)}, which is neither a text nor a number")
        keys.add(plain_text(item) if isinstance(item, str) else f"{item:g}")
    return keys - {""}


def _items(answer: str, *, keep_and: bool) -> list[Any]:
    try:
        listed = json.loads(answer)
    except ValueError:
        listed = None
    if isinstance(listed, list):
        return listed
    text = _BULLET.sub("", answer)
    if "," in text or ";" in text or "\n" not in text.strip():
        text = re.sub(r",\s+and\s+", ",", text)
        if not keep_and:
            text = re.sub(r"\s+and\s+", ",", text)
    return [item for item in re.split(r"[,;\n]", text) if item.strip()]
