"""The answer is the reference, letter for letter or but for case, spaces and final punctuation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolorch_rl.verifiers.verdict import NO_ANSWER, Verdict, VerifierError, answer_of, shortened


@dataclass(frozen=True, slots=True)
class ExactVerifier:
    """Compares texts.

    Attributes:
        strict: Letter for letter; otherwise case, runs of spaces, and quotes and full stops around it do not count.

    Example:
        >>> ExactVerifier().verify(["Paris", "City of Paris"], " paris. ").passed
        True
    """

    strict: bool = False

    def verify(self, reference: Any, outcome: Any) -> Verdict:
        """Judge an answer; the reference is a text, or a list of texts of which any is right.

        Raises:
            VerifierError: The reference holds no text.
        """
        texts = [reference] if isinstance(reference, str) else reference
        if not isinstance(texts, Sequence) or not texts or not all(isinstance(text, str) for text in texts):
            raise VerifierError(f"reference must be a text or a list of texts, got {shortened(reference)}")
        answer = answer_of(outcome)
        if not answer.strip():
            return NO_ANSWER
        found = answer if self.strict else plain_text(answer)
        for text in texts:
            if found == (text if self.strict else plain_text(text)):
                return Verdict(1.0, True, f"the answer is {shortened(text)}")
        return Verdict(0.0, False, f"the answer {shortened(answer)} is not {shortened(texts[0])}")


def plain_text(text: str) -> str:
    """Return a text without what people leave out: case, runs of spaces, and punctuation around it."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" .!,;:\"'`*\u201c\u201d\u2018\u2019") or folded
