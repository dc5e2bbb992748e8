"""A task's golden run as a whole conversation, in OpenAI's messages format, for supervised training."""

from __future__ import annotations

import json
from typing import Any

from toolorch_integrations import observation
from toolorch_integrations.prompt import system_prompt
from toolorch_integrations.view import CatalogView
from toolorch_rl.environments import Environment
from toolorch_rl.replay import Replayed, replay
from toolorch_rl.tasks import GoldenCall, Task


def conversation(task: Task, environment: Environment | None = None, app_prompt: str | None = None) -> dict[str, Any]:
    """Return a task's golden run as a row of a data set.

    Before destructive calls whose arguments come from earlier results the policy asks, and the user says yes or no in
    so many words. Every destructive call that is made or refused also stands in `confirmations`, which says how: by the
    user's `message`, or by the `prompt` with which the orchestrator holds back such calls.

    Args:
        task: The task.
        environment: One of the task's schema, to use again; its state is replaced.
        app_prompt: The app's own system prompt.

    Returns:
        `messages`; `tools`, the schemas as a JSON text, since a data set needs one type for all rows (TRL reads it so);
        `confirmations`; `id`, `domain` and `pattern` of the task.

    Raises:
        TaskError: A golden call fails.
    """
    environment = environment or Environment(task.schema_of_environment)
    environment.restore(task.initial)
    view = task.full_catalog().view(task.catalog, task.request)
    system = system_prompt(app_prompt, task.preferences, task.budget, view)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": task.request},
    ]
    confirmations: list[dict[str, str]] = []
    asked = False
    for turn in replay(task, environment):
        destructive = [item for item in turn if task.is_destructive(item.call)]
        if destructive and task.follow_ups and not asked:
            asked = True
            messages.append({"role": "assistant", "content": _question(task, [item.call for item in destructive])})
            messages.append({"role": "user", "content": task.follow_ups[0]})
        made = [item for item in turn if not (asked and item.refused)]
        confirmations += [
            {
                "tool_call_id": item.call.id if item in made else "",
                "name": item.call.name,
                "decision": "reject" if item.refused else "approve",
                "by": "message" if asked else "prompt",
            }
            for item in destructive
        ]
        if made:
            messages += _turn(view, made)
    messages.append({"role": "assistant", "content": task.answer})
    return {
        "id": task.id,
        "domain": task.domain,
        "pattern": task.pattern,
        "messages": messages,
        "tools": json.dumps(view.schemas(), ensure_ascii=False),
        "confirmations": confirmations,
    }


def _turn(view: CatalogView, made: list[Replayed]) -> list[dict[str, Any]]:
    calls = [
        {
            "id": item.call.id,
            "type": "function",
            "function": {
                "name": view.alias(item.call.name),
                "arguments": json.dumps(item.call.arguments, ensure_ascii=False),
            },
        }
        for item in made
    ]
    results = [
        {
            "role": "tool",
            "tool_call_id": item.call.id,
            "name": view.alias(item.call.name),
            "content": observation.refused(view.alias(item.call.name)) if item.refused else item.text,
        }
        for item in made
    ]
    return [{"role": "assistant", "content": "", "tool_calls": calls}, *results]


def _question(task: Task, calls: list[GoldenCall]) -> str:
    """Return the question before destructive calls: what is called with what, by name and id."""
    parts = []
    for call in calls:
        verb, _, entity = call.name.partition("_")
        key = str(call.arguments.get(f"{entity}_id", ""))
        row = task.initial.rows.get(entity, {}).get(key, {})
        label = row.get(task.schema_of_environment.by_name[entity].label) if row else None
        parts.append(f"{verb} the {entity.replace('_', ' ')} {label or key} ({key})")
    return f"I am about to {' and '.join(parts)}. Shall I go on?"
