"""The `chat` rendering to the byte: policies are trained on exactly this."""

from __future__ import annotations

import json

from toolorch_integrations import Budget, Catalog, CatalogFilter, Endpoint, Preferences, Price, Specialist, Tool
from toolorch_integrations.prompt import (
    OBSERVER,
    ORCHESTRATOR_PROMPT,
    request_of,
    results_of,
    specialist_messages,
    system_prompt,
    text_of,
)

CODER = Specialist(
    name="coder",
    description="Writes Python.",
    price=Price(input=1, output=2.5),
    latency=3,
    endpoint=Endpoint(url="http://127.0.0.1:1/v1", model="coder-7b"),
    system_prompt="Answer with code only.",
)
CATALOG = Catalog(
    [
        Tool(
            name="search",
            description="Search documents.",
            price=Price(call=0.01),
            parameters={"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        ),
        CODER,
        Specialist(name="solver", context="task"),
    ]
)
CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"query": "tents"}'}}
CONVERSATION = [
    {"role": "system", "content": "orchestrate"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "Which tents are there?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "Two tents."},
    {"role": "user", "name": OBSERVER, "content": "Error: the reply was empty."},
]


def test_the_system_message():
    view = CATALOG.view(CatalogFilter(aliases={"coder": "expert-1"}))
    preferences = Preferences(cost=0.6, latency=0.2, quality=0.5, tools={"coder": 0.9, "search": 0.3})
    assert system_prompt("You sell tents.", preferences, Budget(dollars=0.05, turns=12), view) == (
        "You sell tents.\n\n"
        "Solve the request step by step. At each step call tools, hand the step to a specialist, or answer.\n\n"
        "Preferences: quality matters much; low cost matters much; low latency matters a little; "
        "use expert-1 if at all possible; use search where it helps.\n\n"
        "Budget: 12 turns, $0.05."
    )


def test_defaults_are_not_told():
    assert system_prompt(None, Preferences(), Budget(), CATALOG.view()) == ORCHESTRATOR_PROMPT


def test_the_callers_own_words_take_the_place_of_the_sentence():
    preferences = Preferences(cost=1.0, instruction="Spend nothing.")
    assert system_prompt("", preferences, Budget(), CATALOG.view()) == f"{ORCHESTRATOR_PROMPT}\n\nSpend nothing."


def test_the_preference_vector_is_the_papers():
    preferences = Preferences(quality=0.9, cost=0.6, latency=0.2, tools={"coder": 0.5})
    assert preferences.vector(["search", "coder"]) == [0.0, 0.5, 0.9, 0.6, 0.2]
    assert Preferences().vector([]) == [1.0, 0.0, 0.0]


def test_the_tool_schemas():
    assert json.dumps(CATALOG.view().schemas()) == (
        '[{"type": "function", "function": {"name": "search", "description": "Search documents. ($0.01 a call)", '
        '"parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}}}, '
        '{"type": "function", "function": {"name": "coder", "description": "Writes Python. '
        '($1 in, $2.5 out per million tokens; about 3 s)", "parameters": {"type": "object", "properties": '
        '{"task": {"type": "string", "description": "What to do. Leave out to hand over the request and all '
        'results."}, '
        '"final": {"type": "boolean", "description": "true: the reply is the answer to the user."}}}}}, '
        '{"type": "function", "function": {"name": "solver", "description": "", "parameters": {"type": "object", '
        '"properties": {"task": {"type": "string", "description": "What to do, complete in itself."}, '
        '"final": {"type": "boolean", "description": "true: the reply is the answer to the user."}}, '
        '"required": ["task"]}}}]'
    )


def test_a_specialist_sees_the_request_and_this_requests_results():
    assert specialist_messages(CODER, CONVERSATION) == [
        {"role": "system", "content": "Answer with code only."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Which tents are there?\n\nResults so far:\n[search] Two tents."},
    ]


def test_a_task_is_told_after_the_results():
    assert specialist_messages(CODER, CONVERSATION, "Count them.")[-1]["content"] == (
        "Which tents are there?\n\nResults so far:\n[search] Two tents.\n\nYour task: Count them."
    )


def test_a_specialist_of_tasks_sees_nothing_else():
    solver = Specialist(name="solver", context="task")
    assert specialist_messages(solver, CONVERSATION, "2 + 2?") == [{"role": "user", "content": "2 + 2?"}]
    assert specialist_messages(solver, CONVERSATION)[-1]["content"] == "Which tents are there?"


def test_without_any_conversation_the_task_stands_alone():
    specialist = Specialist(name="coder")
    assert specialist_messages(specialist, [], "Count.") == [{"role": "user", "content": "Your task: Count."}]


def test_results_have_the_names_that_the_policy_called():
    assert results_of(CONVERSATION) == [("search", "Two tents.")]
    assert results_of([{"role": "tool", "tool_call_id": "x", "content": "lost"}]) == [("tool", "lost")]
    assert results_of([{"role": "tool", "tool_call_id": "x", "name": "add", "content": [{"text": "4"}]}]) == [
        ("add", "4")
    ]


def test_the_request_is_the_newest_message_that_a_user_wrote():
    assert request_of(CONVERSATION) == "Which tents are there?"
    assert request_of([]) == ""
    assert request_of([{"role": "assistant", "content": "Hi"}]) == "Hi"


def test_text_of_content_blocks():
    assert text_of({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, "b"]}) == "ab"
    assert text_of({"role": "assistant", "content": None}) == ""
