"""An environment: a SQLite database with a schema, and the tools that the schema implies."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from toolorch_integrations.catalog import Catalog
from toolorch_rl.environments.catalog import catalog_of, models_of, operations_of
from toolorch_rl.environments.errors import EnvironmentCallError
from toolorch_rl.environments.operations import DEFAULT_LIMIT, Operation
from toolorch_rl.environments.rows import check_state, checked_arguments, like_pattern, new_id, row_of, shown
from toolorch_rl.environments.schema import EntitySpec, EnvironmentSchema, LinkSpec, Scalar
from toolorch_rl.environments.state import IdForm, Row, State
from toolorch_rl.environments.tools import langchain_tools, llamaindex_tools


class Environment:
    """A database and its tools. Safe across threads; parallel calls are made one after the other.

    The ids of new entries follow from what the entries hold, so the order of parallel calls does not matter.

    Args:
        schema: What the database holds.
        path: SQLite file; by default the database is in memory.
        state: What it holds at first; by default a file keeps what it has.

    Raises:
        StateError: The state does not fit the schema.

    Example:
        >>> from toolorch_rl.environments import Environment, EnvironmentSchema
        >>> schema = EnvironmentSchema.from_dict({"name": "notes", "entities": [{"name": "note", "plural": "notes",
        ...     "label": "title", "fields": [{"name": "title", "required": True}]}]})
        >>> with Environment(schema) as environment:
        ...     made = environment.call("create_note", {"title": "Milk"})
        ...     environment.call("get_note", {"note_id": made["id"]})["title"]
        'Milk'
    """

    def __init__(self, schema: EnvironmentSchema, path: str | Path = ":memory:", state: State | None = None) -> None:
        self.schema = schema
        self._operations = operations_of(schema)
        self._id_form: IdForm = "prefix-number"
        self._id_seed = 0
        self._touched: dict[tuple[str, str], None] = {}
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._create_tables()
        if state is not None:
            self.restore(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # --- what it hands out ---

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The tools by name."""
        return self._operations

    @property
    def models(self) -> Mapping[str, type[BaseModel]]:
        """The arguments of the tools as models, by name."""
        return models_of(self.schema)

    def catalog(self) -> Catalog:
        """Return the tools as a catalogue, with what must be confirmed marked so."""
        return catalog_of(self.schema)

    def langchain_tools(self) -> list[Any]:
        """Return the tools as LangChain `StructuredTool`s; their results are JSON."""
        return langchain_tools(self)

    def llamaindex_tools(self) -> list[Any]:
        """Return the tools as LlamaIndex `FunctionTool`s; their results are JSON."""
        return llamaindex_tools(self)

    # --- states ---

    def state(self) -> State:
        """Return all that the database holds, in the order of ids."""
        with self._lock:
            rows = {
                entity.name: {row[0]: row_of(entity, row[1:]) for row in self._select(entity)}
                for entity in self.schema.entities
            }
            links = {
                link.name: [
                    (a, b) for a, b in self._database.execute(f'SELECT * FROM "link_{link.name}" ORDER BY 1, 2')
                ]
                for link in self.schema.links
            }
            return State.model_construct(
                rows=rows, links=links, id_form=self._id_form, id_seed=self._id_seed, touched=list(self._touched)
            )

    def end_stage(self) -> None:
        """Do nothing when the user is about to speak again: only the state at the end counts."""

    def restore(self, state: State) -> None:
        """Make the database hold a state and nothing else.

        Raises:
            StateError: The state does not fit the schema; the database stays as it was.
        """
        check_state(self.schema, state)
        with self._lock:
            run = self._database.execute
            run("BEGIN")
            for entity in self.schema.entities:
                run(f'DELETE FROM "{entity.name}"')
                marks = ", ".join("?" * (1 + len(entity.fields)))
                self._database.executemany(
                    f'INSERT INTO "{entity.name}" VALUES ({marks})',
                    [
                        (key, *(row.get(field.name) for field in entity.fields))
                        for key, row in state.rows.get(entity.name, {}).items()
                    ],
                )
            for link in self.schema.links:
                run(f'DELETE FROM "link_{link.name}"')
                self._database.executemany(
                    f'INSERT INTO "link_{link.name}" VALUES (?, ?)', state.links.get(link.name, [])
                )
            run("COMMIT")
            self._id_form, self._id_seed = state.id_form, state.id_seed
            self._touched = dict.fromkeys(state.touched)

    # --- calls ---

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a tool.

        Args:
            name: Of the tool.
            arguments: Those that are None count as left out.

        Raises:
            EnvironmentCallError: There is no such tool, the arguments do not fit, or the call makes no sense now.
        """
        operation = self._operations.get(name)
        if operation is None:
            raise EnvironmentCallError(f"there is no tool {name!r} in the domain {self.schema.name!r}")
        given = checked_arguments(operation, arguments)
        with self._lock:
            return getattr(self, f"_{operation.kind}")(operation, given)  # type: ignore[no-any-return]

    def call_text(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool and return the result as JSON, as policies see it."""
        return json.dumps(self.call(name, arguments), ensure_ascii=False)

    def _create(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        entity = operation.entity
        row: Row = {field.name: given.get(field.name, field.default) for field in entity.fields}
        self._check_references(entity, row)
        key = self._new_id(entity, row)
        marks = ", ".join("?" * (1 + len(row)))
        self._database.execute(f'INSERT INTO "{entity.name}" VALUES ({marks})', (key, *row.values()))
        self._touch(entity.name, key)
        return shown(key, row)

    def _get(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        entity = operation.entity
        key, row = self._entry(entity, given)
        linked: dict[str, Any] = {}
        for link in self.schema.links_of(entity.name):
            own, other = ("source", "target") if link.source == entity.name else ("target", "source")
            found = self._database.execute(
                f'SELECT "{other}" FROM "link_{link.name}" WHERE "{own}" = ? ORDER BY 1', (key,)
            )
            linked[f"{link.target if own == 'source' else link.source}_ids"] = [item for (item,) in found]
        return {**shown(key, row), **linked}

    def _list(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        limit = given.pop("limit", DEFAULT_LIMIT)
        where = " AND ".join(f'"{name}" = ?' for name in given)
        return self._found(operation.entity, f"WHERE {where}" if where else "", list(given.values()), limit)

    def _search(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        texts = [field.name for field in operation.entity.fields if field.type == "text"]
        joined = " || ' ' || ".join(f"COALESCE(\"{name}\", '')" for name in texts)
        words = [like_pattern(word) for word in str(given["query"]).split()]
        where = " AND ".join(f"{joined} LIKE ? ESCAPE '\\'" for _ in words)
        return self._found(operation.entity, f"WHERE {where}", words, given.get("limit", DEFAULT_LIMIT))

    def _update(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        entity = operation.entity
        key, row = self._entry(entity, given)
        new = {name: value for name, value in given.items() if name != f"{entity.name}_id"}
        if not new:
            raise EnvironmentCallError(f"{operation.name} changes nothing: give at least one field")
        self._check_references(entity, new)
        return self._write(entity, key, {**row, **new}, new)

    def _action(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        key, row = self._entry(operation.entity, given)
        new = dict(operation.sets)
        return self._write(operation.entity, key, {**row, **new}, new)

    def _delete(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        entity = operation.entity
        key, _ = self._entry(entity, given)
        for other in self.schema.entities:
            for field in other.references:
                if field.refers_to != entity.name:
                    continue
                found = self._database.execute(f'SELECT id FROM "{other.name}" WHERE "{field.name}" = ?', (key,))
                users = [user for (user,) in found]
                if users and field.required:
                    raise EnvironmentCallError(f"{entity.noun} {key} still has the {other.noun} {users[0]}")
                for user in users:
                    self._database.execute(f'UPDATE "{other.name}" SET "{field.name}" = NULL WHERE id = ?', (user,))
                    self._touch(other.name, user)
        for link in self.schema.links_of(entity.name):
            end = "source" if link.source == entity.name else "target"
            self._database.execute(f'DELETE FROM "link_{link.name}" WHERE "{end}" = ?', (key,))
        self._database.execute(f'DELETE FROM "{entity.name}" WHERE id = ?', (key,))
        self._touch(entity.name, key)
        return {"id": key, "deleted": True}

    def _link(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        link, pair = self._pair(operation, given)
        if self._linked(link, pair):
            raise EnvironmentCallError(f"{pair[0]} and {pair[1]} are linked already")
        self._database.execute(f'INSERT INTO "link_{link.name}" VALUES (?, ?)', pair)
        return {**given, "linked": True}

    def _unlink(self, operation: Operation, given: dict[str, Any]) -> dict[str, Any]:
        link, pair = self._pair(operation, given)
        if not self._linked(link, pair):
            raise EnvironmentCallError(f"{pair[0]} and {pair[1]} are not linked")
        self._database.execute(f'DELETE FROM "link_{link.name}" WHERE source = ? AND target = ?', pair)
        return {**given, "linked": False}

    # --- the database ---

    def _create_tables(self) -> None:
        kinds = {"integer": "INTEGER", "boolean": "INTEGER", "number": "REAL"}
        for entity in self.schema.entities:
            columns = "".join(f', "{field.name}" {kinds.get(field.type, "TEXT")}' for field in entity.fields)
            self._database.execute(f'CREATE TABLE IF NOT EXISTS "{entity.name}" (id TEXT PRIMARY KEY{columns})')
        for link in self.schema.links:
            self._database.execute(
                f'CREATE TABLE IF NOT EXISTS "link_{link.name}" '
                "(source TEXT, target TEXT, PRIMARY KEY (source, target))"
            )

    def _select(self, entity: EntitySpec, where: str = "", values: Sequence[Any] = ()) -> Iterable[tuple[Any, ...]]:
        return self._database.execute(f'SELECT * FROM "{entity.name}" {where} ORDER BY id', values)

    def _found(self, entity: EntitySpec, where: str, values: Sequence[Any], limit: int) -> dict[str, Any]:
        rows = [shown(row[0], row_of(entity, row[1:])) for row in self._select(entity, where, values)]
        return {"count": len(rows), entity.plural: rows[: max(limit, 0)]}

    def _entry(self, entity: EntitySpec, given: Mapping[str, Any]) -> tuple[str, Row]:
        key = given[f"{entity.name}_id"]
        row = next(iter(self._select(entity, "WHERE id = ?", (key,))), None)
        if row is None:
            raise EnvironmentCallError(f"there is no {entity.noun} with the id {key!r}")
        return key, row_of(entity, row[1:])

    def _write(self, entity: EntitySpec, key: str, row: Row, new: Mapping[str, Scalar]) -> dict[str, Any]:
        sets = ", ".join(f'"{name}" = ?' for name in new)
        self._database.execute(f'UPDATE "{entity.name}" SET {sets} WHERE id = ?', (*new.values(), key))
        self._touch(entity.name, key)
        return shown(key, row)

    def _pair(self, operation: Operation, given: Mapping[str, Any]) -> tuple[LinkSpec, tuple[str, str]]:
        assert operation.link is not None
        ends = [self.schema.by_name[name] for name in (operation.link.source, operation.link.target)]
        source, target = (self._entry(end, given)[0] for end in ends)
        for end, key in zip(ends, (source, target), strict=True):
            self._touch(end.name, key)
        return operation.link, (source, target)

    def _linked(self, link: LinkSpec, pair: tuple[str, str]) -> bool:
        query = f'SELECT 1 FROM "link_{link.name}" WHERE source = ? AND target = ?'
        return self._database.execute(query, pair).fetchone() is not None

    def _check_references(self, entity: EntitySpec, row: Mapping[str, Scalar]) -> None:
        for field in entity.references:
            if row.get(field.name) is not None and field.refers_to is not None:
                self._entry(self.schema.by_name[field.refers_to], {f"{field.refers_to}_id": row[field.name]})

    def _new_id(self, entity: EntitySpec, row: Row) -> str:
        content = json.dumps([self._id_seed, entity.name, row])
        number = 0
        while True:
            key = new_id(self._id_form, entity.name, f"{content}{number}")
            if not any(True for _ in self._select(entity, "WHERE id = ?", (key,))):
                return key
            number += 1

    def _touch(self, entity: str, key: str) -> None:
        self._touched[entity, key] = None
