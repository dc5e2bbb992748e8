"""The `select` rendering: each step is a fresh prompt in which the policy only chooses a function and a model for it.

It is the interface of NVIDIA's published Orchestrator-8B, which runs unchanged with it: the texts below are those that
the model was trained on (https://github.com/NVlabs/ToolOrchestra, Apache-2.0). That repository's evaluation script ends
the user message with a stray apostrophe and its training script spells it in other ways; here it is the clean text.

The policy writes no query and no code. The chosen specialist does, from the whole context (`select_replies`); what it
brings joins the context as a contribution: `{"documents": [...]}`, the newest search last, or
`{"code": ..., "output": ...}`. Contributions are JSON-safe, so that a face can keep them in its own state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from toolorch_integrations.entry import Price, Specialist
from toolorch_integrations.view import CatalogView

SYSTEM = "You are good at using tools."
"""The policy's system message."""

REASON, ANSWER, SEARCH = "enhance_reasoning", "answer", "search"
"""The functions. A specialist is offered for those that stand among its `capabilities`."""

DOCUMENT_CHARACTERS = 1_200
CODE_TOKENS = 12_000
CONTEXT_TOKENS = 27_000
"""Together with the problem's; code and documents are cut from the front."""


@dataclass(frozen=True, slots=True)
class _Function:
    """The words of one function around its models."""

    description: str
    purpose: str
    table: str


FUNCTIONS: Mapping[str, _Function] = {
    REASON: _Function(
        "tool to enhance answer model reasoning. analyze the problem, write code, execute it and return intermidiate "
        "results that will help solve the problem",
        "The model used to reason.",
        " ",
    ),
    ANSWER: _Function(
        "give the final answer. Not allowed to call if documents is empty.",
        "The model used to answer.",
        " The table below shows the pricing and latency of each model:",
    ),
    SEARCH: _Function(
        "Search for missing information",
        "The model used to search for missing information.",
        " The table below shows the pricing and latency:",
    ),
}
"""All functions in the order in which the policy sees them. Misspellings are the published model's."""

_MISPRINT = ("answer-math-2", 0.2)
"""Name and input price of the one row with a doubled dollar sign in what the published model was trained on."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """How long a text is, and how it is cut, in the policy's tokens.

    Attributes:
        encode: A tokenizer's `encode`, without special tokens; None takes four characters for a token.
        decode: The same tokenizer's `decode`.

    Raises:
        ValueError: Only one of the two is given.

    Example:
        >>> Tokens().keep_end("abcdefgh", 1)
        'efgh'
    """

    encode: Callable[[str], Sequence[int]] | None = None
    decode: Callable[[Sequence[int]], str] | None = None

    def __post_init__(self) -> None:
        if (self.encode is None) != (self.decode is None):
            raise ValueError("Tokens needs `encode` and `decode` of one tokenizer, or neither.")

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.encode(text)) if self.encode is not None else -(-len(text) // 4)

    def keep_end(self, text: str, limit: int) -> str:
        """Return a text cut from the front to `limit` tokens."""
        if self.encode is None or self.decode is None:
            return text[max(0, len(text) - 4 * limit) :]
        ids = self.encode(text)
        return text if len(ids) <= limit else self.decode(ids[len(ids) - limit :])


@dataclass(slots=True)
class Context:
    """What a run has found out: documents, and pieces of code with their output."""

    documents: list[str] = field(default_factory=list)
    code: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, contributions: Iterable[Mapping[str, Any]]) -> Self:
        """Return what contributions make together, in order."""
        context = cls()
        for contribution in contributions:
            context.add(contribution)
        return context

    def add(self, contribution: Mapping[str, Any]) -> None:
        """Add what a call brought: new documents in reversed order of the search, so that the best one is cut last."""
        for document in reversed(contribution.get("documents") or ()):
            if document not in self.documents:
                self.documents.append(document)
        if "code" in contribution:
            self.code.append((contribution["code"], contribution["output"]))

    def text(self, problem: str, tokens: Tokens) -> str:
        """Return the context as the policy and the specialists read it; empty where nothing is known yet."""
        documents = "".join(
            f"Doc {number}: {document[:DOCUMENT_CHARACTERS]} ...\n\n"
            for number, document in enumerate(self.documents, start=1)
        )
        code = "".join(f"```python\n{code}\n```\n\n```output\n{output}\n```\n\n" for code, output in self.code)
        code = tokens.keep_end(code, CODE_TOKENS)
        if code and not code.startswith("```"):
            code = f"```\n{code}"
        both = f"{documents}\npython code and execution outputs:\n{code}" if code else documents
        both = tokens.keep_end(both, max(0, CONTEXT_TOKENS - tokens.count(problem)))
        return f"Documents:\n{both}" if documents else both


def step_messages(problem: str, context: str) -> list[dict[str, Any]]:
    """Return the prompt of one step."""
    user = f"Problem: {problem}\n\n{context}\n\nChoose an appropriate tool."
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


# --- functions of the policy ---


def choices_of(view: CatalogView) -> dict[str, dict[str, Specialist]]:
    """Return the specialists of each function by the names that the policy sees, in the catalogue's order."""
    return {
        function: {
            alias: entry
            for alias, entry in zip(view.names, view.entries, strict=True)
            if isinstance(entry, Specialist) and function in entry.capabilities
        }
        for function in FUNCTIONS
    }


def offered(functions: Iterable[str], called: Sequence[str], *, last: bool = False) -> list[str]:
    """Return the functions of a step: one that was called twice in a row is left out, the last turn has `answer` only.

    Args:
        functions: Functions that have specialists and, where they need one, the app's tool.
        called: Functions that were called so far, in order.
        last: Whether the budget allows no further turn.
    """
    given = list(functions)
    if last:
        return [function for function in given if function == ANSWER]
    repeated = called[-1] if len(called) > 1 and called[-1] == called[-2] else None
    return [function for function in given if function != repeated] or given


def function_schema(function: str, choices: Mapping[str, Specialist]) -> dict[str, Any]:
    """Return a function's schema in OpenAI's format.

    Args:
        function: One of `FUNCTIONS`.
        choices: Its specialists by the names that the policy sees.
    """
    words = FUNCTIONS[function]
    said = " ".join(f"{alias} {entry.description}".rstrip() for alias, entry in choices.items())
    rows = [f"{alias} | {_prices(alias, entry.price)} | {_latency(entry.latency)}" for alias, entry in choices.items()]
    head = "Model | price per million input tokens | price per million output tokens | average latency"
    description = f"{words.purpose} Choices: {list(choices)}. {said}{words.table}\n" + "\n".join([head, *rows])
    parameters = {
        "properties": {"model": {"description": description, "type": "string"}},
        "required": ["model"],
        "title": "parameters",
        "type": "object",
    }
    return {
        "type": "function",
        "function": {"name": function, "description": words.description, "parameters": parameters},
    }


def _prices(alias: str, price: Price) -> str:
    doubled = "$" if (alias, price.input) == _MISPRINT else ""
    return f"{doubled}${_plain(price.input)} | ${_plain(price.output)}"


def _plain(number: float) -> str:
    """Return a number without exponent and without zeros at its end."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def _latency(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{_plain(seconds)}s"
