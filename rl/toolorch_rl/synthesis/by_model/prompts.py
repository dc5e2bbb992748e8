"""What models are asked, stage by stage. Every prompt asks for one JSON object and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolorch_integrations.prompt import Message
from toolorch_rl.environments import EnvironmentSchema, FieldSpec, Operation, State
from toolorch_rl.environments.catalog import operations_of
from toolorch_rl.tasks import Pattern

SYSTEM = (
    "You write data for the training of assistants that call tools. Be realistic, concrete and varied. Reply with one "
    "JSON object and nothing else."
)

_SCHEMA = """Design the database behind an assistant for: {domain}.

Reply with JSON of this form:
{{"description": "one sentence",
 "entities": [
  {{"name": "order", "plural": "orders", "label": "title", "description": "one short sentence", "fields": [
    {{"name": "title", "type": "text", "required": true}},
    {{"name": "customer_id", "type": "reference", "refers_to": "customer", "required": true}},
    {{"name": "status", "type": "choice", "choices": ["open", "sent", "cancelled"], "default": "open"}},
    {{"name": "due", "type": "date"}}]}},
  ...],
 "links": [{{"source": "order", "target": "tag"}}],
 "actions": [{{"verb": "cancel", "entity": "order", "sets": {{"status": "cancelled"}}, "destructive": true}}]}}

Rules:
- Three to six entities, three to seven fields each. At least one entity refers to another.
- Names are singular, lower case, words joined by "_". No field is called id, query or limit; every entry has an id.
- Types: text, integer, number, boolean, date, choice (needs "choices"), reference (needs "refers_to"; its name ends
  with "_id" and is not the entity's own name followed by "_id").
- "label" names a required text field by which people know an entry.
- Required references form no cycle.
- "links" join entries of two different entities, many to many; there may be none.
- "actions" set fields to fixed values. Those that cannot be taken back, cost money or reach other people are
  destructive. Verbs are not create, get, list, search, update, delete, link or unlink."""

_ENTRIES = """The database of an assistant for {domain}:
{schema}

Fill it as it might be on one day ({variant}). About {count} entries of each entity.

Reply with JSON of this form:
{{"rows": {{"entity name": {{"any short key": {{"field": value, ...}}, ...}}, ...}},
 "links": {{"{link}": [["key of a source entry", "key of a target entry"], ...]}}}}

Rules:
- Every entity has entries, and every required field a value. Leave out optional fields now and then.
- A reference holds the key of an entry of the entity that it refers to. Nothing is its own ancestor.
- Dates are YYYY-MM-DD. Choices are among those listed.
- No two entries of an entity have the same label, and no label is part of another."""

_INTENTS = """An assistant for {domain} has this database:
{schema}

It holds now:
{state}

Think of {count} different things that a person might ask of the assistant now, one for each of these patterns, in
this order:
{patterns}

Let the first ones be about {labels}.
Reply with JSON of this form: {{"intents": ["one sentence", ...]}}
Each intent names the entries that it is about by their labels, never by ids, and can be met with these tools:
{tools}"""

_TASK = """An assistant for {domain} has these tools:
{tools}
create, get, update and actions give the entry with its "id" (get also the ids of linked entries, as "<entity>_ids");
list and search give {{"count": n, "<plural>": [entries]}}; search finds entries in whose texts all words occur; delete
gives {{"id", "deleted"}}.

The database holds now:
{state}

{order}

Reply with JSON of this form:
{{"request": "what the person says, in a natural voice",
 "turns": [[{{"id": "a", "name": "search_orders", "arguments": {{"query": "Blue lamp"}}}}],
           [{{"id": "b", "name": "cancel_order", "arguments": {{"order_id": "{{{{a:orders[0].id}}}}"}}}}]],
 "answer": "what the assistant says at the end, all results included",
 "must_say": [["Blue lamp"], ["cancelled", "canceled"]],
 "forbidden": [["order", "id of an entry that a careless assistant might change"]],
 "approval": true}}

Rules:
- "turns" holds the right calls and no others. The calls of one turn are made side by side, so none of them needs
  another's result. {shape}
- A value that an earlier turn's result tells is written {{{{call:path}}}}, as above, in arguments, "answer" and
  "must_say". Ids are never known otherwise, unless the request says them.
- The request says everything else that the calls need. It does not say how, and names no tools.
- "must_say" lists what the answer must hold, short, each as one or more wordings of which one is enough. At least one
  of them is nothing that the request says already.
- "forbidden" entries exist now and are not touched by the calls.
- Destructive tools ask the person first. "approval" false: the person says no, and the answer says so."""

_NEW = "Write a task for this intent, of the pattern {pattern}: {intent}"

_HARDER = """Here is a task:
{task}

Write a harder version of it, of the same form: add a step that depends on an earlier result, or a condition or
restriction that has to be looked up or watched. It must have more calls, or more that must be said or left alone, and
still have exactly one right outcome."""

PATTERNS: dict[Pattern, str] = {
    "single": "single: one call is enough",
    "sequential": "sequential: two calls, the second needs an id from the first one's result",
    "parallel": "parallel: two or more calls that do not need each other",
    "conditional": "conditional: look something up, and act only if it is so (or not act, since it is not so)",
    "loop": "loop: list or search entries, then do the same thing with each of them",
    "chain": "chain: three or more calls, later ones need ids from earlier results",
    "mixed": "mixed: look up and filter, then several calls side by side",
}
SHAPES: dict[Pattern, str] = {
    "single": "Here: one turn with one call.",
    "sequential": "Here: two turns with one call each.",
    "parallel": "Here: one turn with two to four calls.",
    "conditional": "Here: one to three turns; the first one looks things up.",
    "loop": "Here: two or three turns; the last one has the same tool for each entry found.",
    "chain": "Here: two or more turns, three or more calls.",
    "mixed": "Here: two or more turns, three or more calls, two or more of them in one turn.",
}


def schema_prompt(domain: str) -> tuple[Message, ...]:
    """Ask for a domain's schema."""
    return _messages(_SCHEMA.format(domain=domain))


def entries_prompt(domain: str, schema: EnvironmentSchema, variant: str, count: int) -> tuple[Message, ...]:
    """Ask for a state of a domain."""
    link = schema.links[0].name if schema.links else "source_target"
    text = _ENTRIES.format(domain=domain, schema=_schema(schema), variant=variant, count=count, link=link)
    return _messages(text)


def intents_prompt(
    domain: str, schema: EnvironmentSchema, state: State, patterns: Sequence[Pattern], labels: Sequence[str]
) -> tuple[Message, ...]:
    """Ask for intents, one for each pattern; `labels` make it another question than the last one."""
    listed = "\n".join(f"{number}. {PATTERNS[pattern]}" for number, pattern in enumerate(patterns, 1))
    text = _INTENTS.format(
        domain=domain,
        schema=_schema(schema),
        state=_state(state),
        count=len(patterns),
        patterns=listed,
        labels=" and ".join(labels),
        tools=_tools(schema),
    )
    return _messages(text)


def task_prompt(
    domain: str, schema: EnvironmentSchema, state: State, pattern: Pattern, intent: str
) -> tuple[Message, ...]:
    """Ask for a task."""
    order = _NEW.format(pattern=pattern, intent=intent)
    return _task(domain, schema, state, order, SHAPES[pattern])


def harder_prompt(domain: str, schema: EnvironmentSchema, state: State, task: str) -> tuple[Message, ...]:
    """Ask for a harder version of a task."""
    return _task(domain, schema, state, _HARDER.format(task=task), "")


def _task(domain: str, schema: EnvironmentSchema, state: State, order: str, shape: str) -> tuple[Message, ...]:
    text = _TASK.format(domain=domain, tools=_tools(schema), state=_state(state), order=order, shape=shape)
    return _messages(text)


def _messages(text: str) -> tuple[Message, ...]:
    return {"role": "system", "content": SYSTEM}, {"role": "user", "content": text}


def _schema(schema: EnvironmentSchema) -> str:
    return json.dumps(schema.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)


def _state(state: State) -> str:
    """Write a state, an entry a line."""
    lines = [
        f"{entity} {key}: {json.dumps(row, ensure_ascii=False)}"
        for entity, rows in state.rows.items()
        for key, row in rows.items()
    ]
    lines += [f"link {name}: {a} with {b}" for name, pairs in state.links.items() for a, b in pairs]
    return "\n".join(lines)


def _tools(schema: EnvironmentSchema) -> str:
    """Write the tools, one a line: an argument that may be left out has a question mark."""
    return "\n".join(_tool(operation) for operation in operations_of(schema).values())


def _tool(operation: Operation) -> str:
    arguments = ", ".join(_argument(field) for field in operation.arguments)
    return f"{operation.name}({arguments}){' [destructive]' if operation.destructive else ''}"


def _argument(field: FieldSpec) -> str:
    kind = "|".join(field.choices) if field.type == "choice" else field.refers_to or field.type
    kind = f"id of {kind}" if field.type == "reference" else kind
    return f"{field.name}{'' if field.required else '?'}: {kind}"
