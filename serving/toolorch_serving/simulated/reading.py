"""Questions whose answers stand in documents: read out of the results that the prompt brings, or not answered.

A document is a title, a full stop and sentences: `Alder tent. Price $189. Weight 2.1 kg. ...`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from toolorch_serving.simulated.solution import Family, Question, Solution, number

_STOP = frozenset((
    "a", "an", "and", "are", "at", "be", "can", "do", "does", "for", "from", "get", "have", "how", "i", "if", "in",
    "is", "it", "long", "many", "me", "much", "my", "of", "on", "or", "our", "please", "the", "there", "they", "to",
    "us", "we", "what", "when", "which", "will", "with", "you", "your", "hello", "hi", "would", "like", "know",
    "could", "tell", "just",
))  # fmt: skip
_SYNONYMS = {"cost": "price", "costs": "price", "price": "price", "heavy": "weight", "weigh": "weight"}
_COMPARED = re.compile(
    r"which (?:one )?(?:is|costs|weighs) (lighter|heavier|cheaper|more expensive|less|more)\W+"
    r"(?:the )?([\w ]+?) or (?:the )?([\w ]+?)\s*[?.]",
    re.I,
)
_TOTAL = re.compile(r"(\d+) ((?:[A-Z]\w+) [a-z]+(?: bags?)?)(?: and (\d+) ((?:[A-Z]\w+) [a-z]+(?: bags?)?))?")
_MONEY = re.compile(r"cost|pay|price|total|spend", re.I)
UNKNOWN = "I do not know: the documents that I was given do not say."


@dataclass(frozen=True, slots=True)
class _Document:
    title: str
    sentences: tuple[str, ...]

    def value(self, label: str) -> Fraction | None:
        for sentence in self.sentences:
            match = re.match(rf"{label} \$?(\d+(?:\.\d+)?)", sentence)
            if match:
                return Fraction(match[1])
        return None


def comparison(question: Question) -> Solution | None:
    """Compare two products by price or weight; the error names the other."""
    match = _COMPARED.search(question.text)
    if match is None:
        return None
    word = match[1].lower()
    costs = "cost" in match[0].lower() or word in ("cheaper", "more expensive")
    label = "Price" if costs else "Weight"
    documents = _documents(question)
    first, second = _named(documents, match[2]), _named(documents, match[3])
    a, b = (document.value(label) if document else None for document in (first, second))
    if first is None or second is None or a is None or b is None:
        return Solution("reading", 2, UNKNOWN, UNKNOWN)
    wants_least = word in ("lighter", "cheaper", "less")
    best, other = (first, second) if (a < b) == wants_least else (second, first)
    figures = " and ".join(
        f"{document.title} {'$' if costs else ''}{number(value)}{'' if costs else ' kg'}"
        for document, value in ((first, a), (second, b))
    )
    right, wrong = (f"Compare {figures}. It is the {document.title}." for document in (best, other))
    return Solution("reading", 2, right, wrong)


def total(question: Question) -> Solution | None:
    """Add up a purchase; the error forgets how many of the last product."""
    match = _TOTAL.search(question.text)
    if match is None or not _MONEY.search(question.text):
        return None
    documents = _documents(question)
    parts: list[tuple[int, Fraction]] = []
    for count, name in ((match[1], match[2]), (match[3], match[4])):
        if name is None:
            continue
        document = _named(documents, name)
        price = document.value("Price") if document else None
        if price is None:
            return Solution("reading", 2, UNKNOWN, UNKNOWN)
        parts.append((int(count), price))
    factor = Fraction(1)
    if re.search(r"\bmember\b", question.text, re.I):
        found = re.search(r"Members get (\d+)% off", " ".join(question.results))
        if found is None:
            return Solution("reading", 2, UNKNOWN, UNKNOWN)
        factor = 1 - Fraction(found[1]) / 100
    right = sum(count * price for count, price in parts) * factor
    wrong = (sum(count * price for count, price in parts[:-1]) + parts[-1][1]) * factor
    if wrong == right:
        wrong = right + 10
    sums = " + ".join(f"{count} x ${number(price)}" for count, price in parts)
    return Solution("reading", 3, f"{sums} makes ${number(right)}.", f"{sums} makes ${number(wrong)}.")


def fact(question: Question) -> Solution | None:
    """Return the sentence of the documents that shares most words with the question; the error returns another."""
    ranked = sorted(
        (
            (len(_words(sentence + " " + document.title) & _words(question.text)), document, sentence)
            for document in _documents(question)
            for sentence in document.sentences
        ),
        key=lambda item: -item[0],
    )
    if not ranked or ranked[0][0] == 0:
        return None
    right, wrong = ranked[0], ranked[1] if len(ranked) > 1 else None
    other = f"{wrong[1].title}: {wrong[2]}." if wrong else "No."
    return Solution("reading", 1, f"{right[1].title}: {right[2]}.", other)


def _documents(question: Question) -> list[_Document]:
    documents = []
    for line in "\n".join(question.results).splitlines():
        title, dot, rest = line.partition(". ")
        if dot and len(title) < 60:
            sentences = tuple(
                part.strip().rstrip(".") for part in re.split(r"(?<=\D)\.\s|(?<=\d)\.\s", rest) if part.strip()
            )
            documents.append(_Document(title.strip(), sentences))
    return documents


def _named(documents: list[_Document], name: str) -> _Document | None:
    wanted = _words(name)
    return next((document for document in documents if _words(document.title) <= wanted and document.title), None)


def _words(text: str) -> set[str]:
    lower = text.lower().replace("how much is", "price")
    return {_SYNONYMS.get(word) or _stem(word) for word in re.findall(r"[a-z]+", lower) if word not in _STOP}


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e")


READING: tuple[Family, ...] = (comparison, total, fact)
