"""Documents as callers give them, and the metadata that filters can ask for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolorch_integrations.retrieval import RetrievalError

Vectors = NDArray[np.float32]
"""Shape (documents, dimension)."""
Tag = tuple[str, str | int | float]
"""A metadata key, nested ones joined by dots, and one value."""

LONGEST_ID = 1024
"""Characters of an id."""
_LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be found.

    Attributes:
        text: What is embedded, searched for words and returned.
        id: Its name; a document of the same name is replaced. By default made from the text.
        metadata: A JSON object; filters ask for its values, nested ones by `outer.inner`, those of a list each.
        vector: Its embedding where the caller has it already, made by the index's model; shape (dimension,).
        source: Where it comes from, so that a build can drop what its source no longer holds.
    """

    text: str
    id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vector: Vectors | Sequence[float] | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked document in the form that is stored."""

    id: str
    text: str
    metadata: str
    tags: frozenset[Tag]
    digest: bytes
    vector: Vectors | Sequence[float] | None
    source: str | None


def digest_of(text: str) -> bytes:
    """Return what stands for a text when duplicates are looked for."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def prepare(document: Document, place: str = "document") -> Prepared:
    """Check a document.

    Args:
        document: What a caller gave.
        place: Its name in errors, such as `documents[3]`.

    Raises:
        RetrievalError: It has no text, or its id or metadata cannot be stored.
    """
    text = document.text
    if not isinstance(text, str) or not text.strip():
        raise RetrievalError(f"{place}.text: must be a text that is not empty", f"{place}.text")
    if not is_unicode(text):
        raise RetrievalError(f"{place}.text: holds half a surrogate pair; it is no valid Unicode", f"{place}.text")
    digest = digest_of(text)
    name = document.id or digest.hex()
    if not isinstance(name, str) or len(name) > LONGEST_ID or not is_unicode(name):
        raise RetrievalError(f"{place}.id: must be a text of at most {LONGEST_ID} characters", f"{place}.id")
    where = f"{place}.metadata"
    if not isinstance(document.metadata, Mapping):
        raise RetrievalError(f"{where}: must be an object of names and values", where)
    tags = frozenset(tags_of(document.metadata, where))
    metadata = json.dumps(document.metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    if not is_unicode(metadata):
        raise RetrievalError(f"{where}: holds half a surrogate pair; it is no valid Unicode", where)
    return Prepared(name, text, metadata, tags, digest, document.vector, document.source)


def is_unicode(text: str) -> bool:
    """Say whether a text can be stored: JSON can smuggle in half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def tags_of(metadata: Any, place: str = "metadata", key: str = "", depth: int = 0) -> Iterator[Tag]:
    """Yield the values that filters can ask for: truth values as 0 and 1, null as none.

    Raises:
        RetrievalError: A value is none of JSON's, or too large or too deep.
    """
    if depth > 16:
        raise RetrievalError(f"{place}: nested more than 16 deep; make it flatter", place)
    if isinstance(metadata, Mapping):
        for name, value in metadata.items():
            if not isinstance(name, str):
                raise RetrievalError(f"{place}: the key {name!r} is no text", place)
            yield from tags_of(value, f"{place}.{name}", f"{key}.{name}" if key else name, depth + 1)
    elif isinstance(metadata, (list, tuple)):
        for value in metadata:
            yield from tags_of(value, place, key, depth + 1)
    elif isinstance(metadata, (str, int, float)):
        value = int(metadata) if isinstance(metadata, bool) else metadata
        if not isinstance(value, str) and not _holds(value):
            raise RetrievalError(f"{place}: {metadata!r:.40} is no number that can be stored", place)
        yield key, value
    elif metadata is not None:
        raise RetrievalError(f"{place}: a {type(metadata).__name__} is no JSON value; give a text or a number", place)


def _holds(value: int | float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= _LARGEST_INTEGER
