"""Filters on metadata, compiled to SQL that selects rows.

The operators are those of MongoDB's query language, which Chroma, Pinecone and LangChain's stores use as well:
`$eq`, `$ne`, `$in`, `$nin`, `$gt`, `$gte`, `$lt`, `$lte`, and `$and` and `$or` over filters. A bare value means `$eq`.
Several conditions must all hold. Of a list of values, one must satisfy the condition.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolorch_integrations.retrieval import Filter, RetrievalError
from toolorch_serving.retrieval.documents import is_unicode

_RANGES = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_MOST_CONDITIONS = 64
_MOST_VALUES = 10_000
_DEEPEST = 8
_KNOWN = ("$eq", "$ne", "$in", "$nin", *_RANGES)


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter as SQL.

    Attributes:
        sql: A SELECT of one column, `row`.
        arguments: Values of its placeholders.
        key: The same for equal filters.
    """

    sql: str
    arguments: tuple[Any, ...]
    key: str


def compile_filter(condition: Filter | None, place: str = "filter") -> Selection | None:
    """Return the SQL of a filter; None if it asks for nothing.

    Raises:
        RetrievalError: It is none; the message names the part at fault.
    """
    if condition is None:
        return None
    if not isinstance(condition, Mapping):
        raise RetrievalError(f'{place}: must be an object such as {{"lang": "en"}}', place)
    if not condition:
        return None
    compiler = _Compiler()
    sql = compiler.every(condition, place, 0)
    return Selection(sql, tuple(compiler.arguments), json.dumps([sql, compiler.arguments]))


class _Compiler:
    def __init__(self) -> None:
        self.arguments: list[Any] = []
        self.conditions = 0

    def every(self, condition: Any, place: str, depth: int) -> str:
        if not isinstance(condition, Mapping) or not condition:
            raise RetrievalError(f"{place}: must be an object with at least one condition", place)
        if depth > _DEEPEST:
            raise RetrievalError(f"{place}: nested more than {_DEEPEST} deep", place)
        parts = []
        for name, value in condition.items():
            where = f"{place}.{name}"
            if not isinstance(name, str) or not is_unicode(name):
                raise RetrievalError(f"{place}: the key {name!r} is no text", place)
            if name in ("$and", "$or"):
                parts.append(self.joined(name, value, where, depth))
            elif name.startswith("$"):
                raise RetrievalError(f"{where}: of operators only $and and $or stand here; name a metadata key", where)
            else:
                parts.append(self.one(name, value, where))
        return _joined(parts, "INTERSECT")

    def joined(self, name: str, value: Any, place: str, depth: int) -> str:
        if not isinstance(value, (list, tuple)) or not value:
            raise RetrievalError(f"{place}: must be a list of filters", place)
        parts = [self.every(part, f"{place}[{number}]", depth + 1) for number, part in enumerate(value)]
        return _joined(parts, "INTERSECT" if name == "$and" else "UNION")

    def one(self, key: str, value: Any, place: str) -> str:
        operators = value if isinstance(value, Mapping) else {"$eq": value}
        if not operators:
            raise RetrievalError(f"{place}: give a value or an operator, one of {', '.join(_KNOWN)}", place)
        parts: list[str] = []
        ranges: list[tuple[str, Any]] = []
        for operator, operand in operators.items():
            where = f"{place}.{operator}" if value is operators else place
            if operator in _RANGES:
                ranges.append((_RANGES[operator], _scalar(operand, where)))
            elif operator in ("$eq", "$ne"):
                parts.append(self.among(key, [_scalar(operand, where)], operator == "$ne"))
            elif operator in ("$in", "$nin"):
                parts.append(self.among(key, _scalars(operand, where), operator == "$nin"))
            else:
                raise RetrievalError(f"{where}: unknown operator; give one of {', '.join(_KNOWN)}", where)
        if ranges:
            parts.append(self.within(key, ranges))
        return _joined(parts, "INTERSECT")

    def among(self, key: str, values: list[Any], negated: bool) -> str:
        self._count()
        if len(values) == 1:
            self.arguments += [key, values[0]]
            found = "SELECT row FROM tags WHERE key = ? AND value = ?"
        else:
            self.arguments += [key, json.dumps(values)]
            found = "SELECT row FROM tags WHERE key = ? AND value IN (SELECT value FROM json_each(?))"
        return f"SELECT row FROM documents EXCEPT {found}" if negated else found

    def within(self, key: str, ranges: list[tuple[str, Any]]) -> str:
        """Return the SQL of all ranges of a key: one value must be in all of them."""
        self._count()
        self.arguments.append(key)
        sql = "SELECT row FROM tags WHERE key = ?"
        for sign, bound in ranges:
            # In SQLite's order every text comes after every number: keep to the kind of the bound.
            sql += f" AND value {sign} ? AND value {'>=' if isinstance(bound, str) else '<'} ''"
            self.arguments.append(bound)
        return sql

    def _count(self) -> None:
        self.conditions += 1
        if self.conditions > _MOST_CONDITIONS:
            raise RetrievalError(f"filter: more than {_MOST_CONDITIONS} conditions; use $in for many values", "filter")


def _joined(parts: list[str], operator: str) -> str:
    if len(parts) == 1:
        return parts[0]
    return f" {operator} ".join(f"SELECT row FROM ({part})" for part in parts)


def _scalar(value: Any, place: str) -> str | int | float:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and is_unicode(value):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise RetrievalError(f"{place}: must be a text, a number, true or false, not {value!r:.80}", place)


def _scalars(values: Any, place: str) -> list[Any]:
    if not isinstance(values, (list, tuple)) or not 0 < len(values) <= _MOST_VALUES:
        raise RetrievalError(f"{place}: must be a list of 1 to {_MOST_VALUES:,} values", place)
    return [_scalar(value, f"{place}[{number}]") for number, value in enumerate(values)]
