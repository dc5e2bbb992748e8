from __future__ import annotations

import json
from typing import Any

import pytest

from toolorch_integrations.events import PolicyCalled
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.trace import Trace, TraceCall
from toolorch_rl.conversation import ConversationError, from_messages, from_trace, is_yes
from toolorch_rl.origins import noun_of, same_entity, singular
from toolorch_rl.quality import CHECKS, QualityError, check, drop_faulty

SYSTEM = {"role": "system", "content": "You keep projects."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def asks(*calls: tuple[str, str, dict[str, Any] | str]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": call_id,
                "type": "function",
                "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
            }
            for call_id, name, given in calls
        ],
    }


def gives(call_id: str, result: Any) -> dict[str, Any]:
    text = result if isinstance(result, str) else json.dumps(result)
    return {"role": "tool", "tool_call_id": call_id, "content": text}


REQUEST = user("Create a project Apollo and add the tasks Rocket and Fuel to it.")
PROJECT = [
    SYSTEM,
    REQUEST,
    asks(("c1", "create_project", {"name": "Apollo"})),
    gives("c1", {"id": "P7", "name": "Apollo"}),
]


def tasks(first: str = "P7", second: str = "P7") -> list[dict[str, Any]]:
    return [
        asks(
            ("c2", "create_task", {"project_id": first, "title": "Rocket"}),
            ("c3", "create_task", {"project_id": second, "title": "Fuel"}),
        ),
        gives("c2", {"id": "T1", "project_id": first, "title": "Rocket"}),
        gives("c3", {"id": "T2", "project_id": second, "title": "Fuel"}),
    ]


GOOD = [*PROJECT, *tasks(), says("I created the project Apollo with the tasks Rocket and Fuel.")]


def problems(messages: list[dict[str, Any]], **more: Any) -> list[tuple[str, str]]:
    return [(problem.check, problem.reason) for problem in check(from_messages(messages), **more).problems]


def test_a_good_chain_passes():
    report = check(from_messages(GOOD))
    assert report.passed
    assert report.text() == "no problem"


def test_an_id_that_nobody_said_is_named():
    found = problems([*PROJECT, *tasks(second="P8"), says("Apollo has the tasks Rocket and Fuel.")])
    assert found == [("ids", "call 3 (create_task): project_id 'P8' was not said and is in no earlier result")]


def test_an_id_that_the_user_said_needs_no_result():
    messages = [user("Add Rocket to P9, please."), asks(("c", "create_task", {"project_id": "P9", "title": "Rocket"}))]
    assert problems([*messages, gives("c", {"id": "T1"}), says("Added Rocket.")]) == []


def test_part_of_a_longer_word_is_not_the_id():
    messages = [user("Add Rocket to P99."), asks(("c", "create_task", {"project_id": "P9", "title": "Rocket"}))]
    assert [name for name, _ in problems([*messages, gives("c", {"id": "T1"}), says("Added Rocket.")])] == ["ids"]


def test_an_id_that_is_said_only_later_does_not_count():
    messages = [
        user("Add Rocket."),
        asks(("c", "create_task", {"project_id": "P9", "title": "Rocket"})),
        gives("c", "Error: create_task failed: there is no project P9."),
        says("Which project?"),
        user("To P9, as you said."),
        says("That failed: there is no project P9."),
    ]
    assert [name for name, _ in problems(messages)] == ["ids"]


def test_an_id_of_another_kind_is_named():
    messages = [
        user("Add a reminder to the task Rocket."),
        asks(("c1", "list_tasks", {})),
        gives("c1", {"count": 1, "tasks": [{"id": "T1", "project_id": "P7", "title": "Rocket"}]}),
        asks(("c2", "create_reminder", {"task_id": "P7"})),
        gives("c2", {"id": "R1", "task_id": "P7"}),
        says("Rocket has a reminder R1."),
    ]
    assert problems(messages) == [
        (
            "field",
            "call 2 (create_reminder): task_id 'P7' comes from 'project_id' of call 1 (list_tasks), "
            "which is no id of a task",
        )
    ]
    messages[3] = asks(("c2", "create_reminder", {"task_id": "T1"}))
    assert problems(messages) == []


def test_arguments_named_after_a_role_are_checked_only_when_it_is_known_what_they_take():
    def assigned(value: str) -> list[dict[str, Any]]:
        return [
            user("Assign Rocket to Ann."),
            asks(("c1", "list_users", {}), ("c2", "search_tasks", {"query": "Rocket"})),
            gives("c1", {"users": [{"id": "U1", "name": "Ann"}]}),
            gives("c2", {"tasks": [{"id": "T1", "title": "Rocket"}]}),
            asks(("c3", "update_task", {"task_id": "T1", "assignee_id": value})),
            gives("c3", {"id": "T1", "assignee_id": value}),
            says("Rocket is assigned to Ann."),
        ]

    assert problems(assigned("U1")) == []
    assert problems(assigned("T1")) == []
    for key in ("assignee_id", "update_task.assignee_id"):
        assert problems(assigned("U1"), references={key: "user"}) == []
        assert [name for name, _ in problems(assigned("T1"), references={key: "user"})] == ["field"]


def test_parallel_calls_must_not_need_each_other():
    messages = [
        REQUEST,
        asks(
            ("c1", "create_project", {"name": "Apollo"}), ("c2", "create_task", {"project_id": "P7", "title": "Rocket"})
        ),
        gives("c1", {"id": "P7"}),
        gives("c2", {"id": "T1"}),
        says("Apollo has the task Rocket."),
    ]
    assert problems(messages) == [
        ("parallel", "call 2 (create_task): project_id 'P7' is a result of call 1 (create_project) in the same turn")
    ]


def test_parallel_calls_must_not_change_the_same_entry():
    def turn(*names: str, second: str = "T1") -> list[str]:
        calls = [(f"c{place}", name, {"task_id": "T1" if place == 0 else second}) for place, name in enumerate(names)]
        messages = [
            user("About T1 and T2."),
            asks(*calls),
            *(gives(call[0], {"id": call[2]["task_id"]}) for call in calls),
        ]
        return [name for name, _ in problems([*messages, says("Done: T1, T2.")], checks=["parallel"])]

    assert turn("complete_task", "update_task") == ["parallel"]
    assert turn("get_task", "update_task") == ["parallel"]
    assert turn("get_task", "get_task") == []
    assert turn("complete_task", "complete_task", second="T2") == []
    assert turn("create_reminder", "create_reminder") == [], "the task is not what they change"


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("I created the project Apollo with the tasks Rocket and Fuel.", []),
        ("I created Apollo (P7) and T1 and T2.", []),
        ("Apollo now has two tasks.", []),
        ("Apollo now has the task Rocket.", ["call 3 (create_task)"]),
        ("The tasks Rocket and Fuel are there.", ["call 1 (create_project)"]),
        ("Done.", ["call 1 (create_project)", "call 2 (create_task)", "call 3 (create_task)"]),
    ],
)
def test_the_answer_covers_every_operation(answer: str, missing: list[str]):
    found = problems([*PROJECT, *tasks(), says(answer)])
    assert found == [("answer", f"the answer says nothing of {step}") for step in missing]


def test_an_answer_may_say_that_there_is_nothing_and_must_say_what_failed():
    def answered(result: Any, answer: str) -> list[str]:
        messages = [
            user("Any meetings tomorrow?"),
            asks(("c", "list_meetings", {"day": "tomorrow"})),
            gives("c", result),
        ]
        return [reason for _, reason in problems([*messages, says(answer)])]

    assert answered({"count": 0, "meetings": []}, "You have no meetings.") == []
    assert answered({"count": 0, "meetings": []}, "Enjoy your day!") == [
        "the answer says nothing of call 1 (list_meetings)"
    ]
    assert answered("Error: list_meetings failed: down.", "I could not reach your calendar.") == []
    assert answered("Error: list_meetings failed: down.", "Enjoy your day!") == [
        "the answer says nothing of call 1 (list_meetings), which failed"
    ]


def deleting(*between: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        user("Clean up my old tasks."),
        asks(("c1", "list_tasks", {"done": True})),
        gives("c1", {"tasks": [{"id": "T1", "title": "Rocket"}]}),
        *between,
        asks(("c2", "delete_task", {"task_id": "T1"})),
        gives("c2", {"id": "T1", "deleted": True}),
        says("I deleted Rocket."),
    ]


def test_destructive_calls_need_an_explicit_yes():
    unconfirmed = [("confirm", "nobody confirmed the destructive call 2 (delete_task)")]
    assert problems(deleting()) == unconfirmed
    assert problems(deleting(says("Shall I delete Rocket?"), user("Yes, please."))) == []
    assert problems(deleting(says("Shall I delete Rocket?"), user("What is it about?"))) == unconfirmed
    assert problems(deleting(says("Shall I delete Rocket?"), user("No, wait."))) == unconfirmed
    assert problems(deleting(), destructive={"delete_task": False}) == []
    assert [name for name, _ in problems(GOOD, destructive={"create_task": True})] == ["confirm", "confirm"]


def test_a_refused_call_was_not_made():
    messages = deleting()
    messages[-2] = gives("c2", "The user refused the call of delete_task. Do not repeat it.")
    messages[-1] = says("I did not delete Rocket.")
    assert problems(messages) == []


def test_faults_of_form_are_named_and_the_rest_is_checked():
    messages = [
        user("Go."),
        asks(("c1", "create_task", "{broken"), ("c2", "get_task", {"task_id": "T9"})),
        gives("c1", {"id": "T1"}),
        gives("c7", {"id": "T3"}),
        says("T1 is there."),
    ]
    found = problems(messages, checks=["form", "ids"])
    assert found == [
        ("form", "arguments of call 1 (create_task) are no JSON object"),
        ("form", "call 2 (get_task) has no result"),
        ("form", "the result of 'c7' answers no call"),
        ("ids", "call 2 (get_task): task_id 'T9' was not said and is in no earlier result"),
    ]
    with pytest.raises(ConversationError, match="message 1 of lesson 3 has no `role`"):
        from_messages([user("Go."), {"content": "x"}], name="lesson 3")
    with pytest.raises(QualityError, match="there is no check 'spelling'; choose among form"):
        check(from_messages(GOOD), checks=[*CHECKS, "spelling"])


# Captured traces


def captured(messages: list[dict[str, Any]], name: str = "t1") -> Trace:
    """Capture a run whose calls are the assistant messages."""
    trace = Trace(id=name, answer=str(messages[-1].get("content") or ""))
    results = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        trace.graph.add_policy_call(PolicyCalled(name, messages[:place], message))
        for call in message.get("tool_calls") or []:
            failed = results[call["id"]].startswith("Error:")
            made = Call(
                CallKind.TOOL,
                call["function"]["name"],
                CallStatus.ERROR if failed else CallStatus.OK,
                call_id=call["id"],
            )
            entry = TraceCall(len(trace.calls), made, trace.graph.asker(call["id"]), result=results[call["id"]])
            trace.add_call(entry)
    return trace


@pytest.mark.parametrize("messages", [GOOD, deleting(), [*PROJECT, *tasks("P8"), says("No.")]])
def test_a_trace_is_judged_as_its_messages_are(messages: list[dict[str, Any]]):
    seen, expected = from_trace(captured(messages)), from_messages(messages, name="t1")
    assert [(s.turn, s.name, s.arguments, s.result, s.status) for s in seen.steps] == [
        (s.turn, s.name, s.arguments, s.result, s.status) for s in expected.steps
    ]
    assert check(seen) == check(expected)


def test_traces_that_fail_are_kept_out_and_say_why():
    bad = captured([*PROJECT, *tasks("P8"), says("Apollo has the tasks Rocket and Fuel.")], "bad")
    found = drop_faulty([captured(GOOD, "good"), bad])
    assert [trace.id for trace in found.kept] == ["good"]
    (dropped,) = found.dropped
    assert (dropped.run, dropped.filter) == ("bad", "quality")
    assert "project_id 'P8' was not said" in dropped.reason


def test_confirmations_of_a_trace_stand_in_its_calls_and_its_catalogue_says_what_needs_them():
    trace = captured(deleting())
    assert [entry.run for entry in drop_faulty([trace]).dropped] == ["t1"]
    deletion = next(entry.call for entry in trace.calls if entry.call.call_id == "c2")
    deletion.confirmed = True
    assert drop_faulty([trace]).kept == [trace]
    deletion.confirmed = False
    trace.catalog_hash = "h"
    trace.snapshots["h"] = [{"name": "delete_task", "destructive": False}]
    assert drop_faulty([trace]).kept == [trace]


def test_ids_of_an_earlier_request_of_the_conversation_count():
    later = [
        *GOOD,
        user("Rename the second one to Kerosene."),
        asks(("c4", "update_task", {"task_id": "T2", "title": "Kerosene"})),
        gives("c4", {"id": "T2", "title": "Kerosene"}),
        says("It is called Kerosene now."),
    ]
    trace = Trace(id="second", answer="It is called Kerosene now.")
    for place in (len(GOOD) + 1, len(later) - 1):
        trace.graph.add_policy_call(PolicyCalled("second", later[:place], later[place]))
    made = Call(CallKind.TOOL, "update_task", call_id="c4")
    trace.add_call(TraceCall(0, made, trace.graph.asker("c4"), result='{"id": "T2", "title": "Kerosene"}'))
    assert [step.name for step in from_trace(trace).steps] == ["update_task"]
    assert check(from_trace(trace)).passed


def test_what_a_subagent_was_told_does_not_stand_for_what_the_user_said():
    trace = captured(GOOD)
    aside = PolicyCalled("t1", [user("Sum up P9.")], says("Nothing."), agent="summary")
    trace.graph.add_policy_call(aside)
    assert check(from_trace(trace)).passed
    assert not any("P9" in text for _, text in from_trace(trace).said)


def test_an_id_that_the_user_said_is_not_taken_for_another_thing():
    def linked(value: str) -> list[dict[str, Any]]:
        return [
            user("Put a book for member M1 on shelf S4."),
            asks(("c1", "create_book", {"member_id": "M1"}), ("c2", "get_shelf", {"shelf_id": "S4"})),
            gives("c1", {"id": "B1", "member_id": "M1"}),
            gives("c2", {"id": "S4", "floor": 2}),
            asks(("c3", "link_book_shelf", {"book_id": value, "shelf_id": "S4"}), ("c4", "list_members", {})),
            gives("c3", {"linked": True}),
            gives("c4", {"count": 1, "members": [{"id": "M1"}]}),
            says("B1 for member M1 is on shelf S4."),
        ]

    assert problems(linked("B1"), checks=["ids", "field", "parallel", "answer"]) == []
    assert [name for name, _ in problems(linked("M1"), checks=["ids", "field"])] == ["field"]


def test_words():
    assert same_entity(noun_of("list_shelves"), "shelf")
    assert same_entity("parent_task", "task")
    assert not same_entity("task", "")
    assert not same_entity("task", "tag")
    assert singular("team_people") == "team_person"
    assert [singular(word) for word in ("tasks", "categories", "boxes", "address", "class")] == [
        "task", "category", "box", "address", "class",
    ]  # fmt: skip
    assert [noun_of(name) for name in ("create_team_member", "listTasks", "search")] == ["team_member", "task", ""]
    assert all(map(is_yes, ["Yes.", "ok, do it", "Go ahead!", "Sure thing"]))
    assert not any(map(is_yes, ["No", "yes, but not that one", "", "Yesterday was fine", "do not"]))
