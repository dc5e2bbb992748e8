"""Captured runs as rows: exact ids, masks, refusals with reasons, and what each token earns and weighs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorch_integrations.events import PolicyCalled, TraceStatus, sampling_of
from toolorch_integrations.ledger import Call, CallKind, CallStatus
from toolorch_integrations.trace import Trace, TraceCall
from toolorch_rl.examples import ExampleError, examples_of
from toolorch_rl.refusals import Reason, TraceRefusedError, temperature_of
from toolorch_rl.trace_rows import rollout_of, rollouts_of

SAMPLING = {"temperature": 0.7}
PROCESSED = "processed_logprobs"


def ask(trace: Trace, prompt: list[int] | None, ids: list[int] | None, **options: Any) -> None:
    """Add a policy call whose messages are one for each id of the prompt, so that any prefix can branch."""
    settings = {"sampling": SAMPLING, "logprobs_mode": PROCESSED, "model": "policy-v1", "started": 1.0} | options
    logprobs = settings.pop("logprobs", None if ids is None else [-float(token) for token in ids])
    messages = [{"role": "user", "content": str(token)} for token in prompt or [0]]
    reply = {"role": "assistant", "content": f"{ids}"}
    trace.graph.add_policy_call(PolicyCalled("t", messages, reply, prompt, ids, logprobs, **settings))


def run(*calls: tuple[list[int], list[int]], **options: Any) -> Trace:
    header = {key: options.pop(key) for key in ("status", "exact", "metadata") if key in options}
    trace = Trace(id=options.pop("id", "t"), **({"status": TraceStatus.ANSWERED} | header))
    for prompt, ids in calls:
        ask(trace, prompt, ids, **options)
    return trace


def refusal(trace: Trace, **options: Any) -> TraceRefusedError:
    with pytest.raises(TraceRefusedError) as caught:
        rollout_of(trace, **options)
    assert f"trace {trace.id} is refused" in str(caught.value)
    return caught.value


# --- rows


def test_a_growing_conversation_is_one_row():
    trace = Trace(id="t", status=TraceStatus.ANSWERED)
    user, tool = {"role": "user", "content": "2 + 2"}, {"role": "tool", "content": "4"}
    said = {"role": "assistant", "content": "add"}
    options: dict[str, Any] = {"sampling": SAMPLING, "logprobs_mode": PROCESSED}
    trace.graph.add_policy_call(PolicyCalled("t", [user], said, [1, 2], [3, 4], [-3, -4], model="v1", **options))
    trace.graph.add_policy_call(
        PolicyCalled("t", [user, said, tool], {"role": "assistant"}, [1, 2, 3, 4, 5], [6], [-6], model="v2", **options)
    )
    rollout = rollout_of(trace)
    (row,) = rollout.rows
    assert row.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert row.trained.tolist() == [False, False, True, True, False, True]
    assert row.logprobs[row.trained].tolist() == [-3, -4, -6]
    assert np.isnan(row.logprobs[~row.trained]).all()
    assert row.temperatures.tolist() == pytest.approx([1, 1, 0.7, 0.7, 1, 0.7])
    assert row.nodes.tolist() == [0, 0, 1, 1, 2, 3]
    assert row.leaf == 3
    assert rollout.policy_versions == ("v1", "v2")
    assert (row.ids.dtype, row.logprobs.dtype, row.temperatures.dtype) == (np.uint32, np.float32, np.float32)


def test_each_rewritten_history_is_a_row_of_its_own():
    rollout = rollout_of(run(([1, 2], [3]), ([1, 9], [4])))
    assert [row.ids.tolist() for row in rollout.rows] == [[1, 2, 3], [1, 9, 4]]
    assert [row.trained.tolist() for row in rollout.rows] == [[False, False, True]] * 2


def test_tokens_of_two_paths_are_trained_by_the_first_only():
    trace = Trace(id="t", status=TraceStatus.ANSWERED)
    user = {"role": "user", "content": "2 + 2"}
    said = {"role": "assistant", "content": "add"}
    options: dict[str, Any] = {"sampling": SAMPLING, "logprobs_mode": PROCESSED}
    for place, ids in ((0, [3, 4]), (1, [6]), (2, [7])):
        more = [] if not place else [said, {"role": "user", "content": f"again {place}"}]
        prompt = [1, 2, *([3, 4, 50 + place] if place else [])]
        reply = said if not place else {"role": "assistant", "content": f"{ids}"}
        trace.graph.add_policy_call(PolicyCalled("t", [user, *more], reply, prompt, ids, [-1.0] * len(ids), **options))
    rollout = rollout_of(trace)
    assert [row.ids.tolist() for row in rollout.rows] == [[1, 2, 3, 4, 51, 6], [1, 2, 3, 4, 52, 7]]
    assert [np.flatnonzero(row.trained).tolist() for row in rollout.rows] == [[2, 3, 5], [5]]
    assert rollout.trained_tokens == 4
    assert rollout.rows[1].logprobs[2:4].tolist() == [-1, -1], "what another row trains keeps its log-probabilities"


prompts = st.lists(st.integers(0, 2), min_size=1, max_size=5)


@given(st.lists(st.tuples(prompts, st.lists(st.integers(0, 2), min_size=1, max_size=3)), min_size=1, max_size=6))
def test_every_sampled_token_is_trained_once_with_its_own_prompt(calls):
    trace = run(*calls)
    rollout = rollout_of(trace)
    assert rollout.trained_tokens == sum(len(ids) for _, ids in calls)
    seen = []
    for row in rollout.rows:
        for node in np.unique(row.nodes[row.trained]).tolist():
            own = np.flatnonzero(row.trained & (row.nodes == node))
            seen.append((row.ids[: own[0]].tolist(), row.ids[own].tolist()))
    assert sorted(seen) == sorted((prompt, ids) for prompt, ids in calls)


def test_what_another_model_of_the_app_said_is_context_and_its_own_paths_are_no_rows():
    trace = run(([1, 2], [3]))
    ask(trace, [7, 8], [9], is_policy=False, logprobs=None)
    (row,) = rollout_of(trace).rows
    assert row.ids.tolist() == [1, 2, 3]


# --- refusals


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        (run(([1], [2]), status=TraceStatus.RUNNING), Reason.RUNNING),
        (run(([1], [2]), status=TraceStatus.INTERRUPTED), Reason.INTERRUPTED),
        (run(([1], [2]), metadata={"dropped": {"queue full": 2}}), Reason.LOST_EVENTS),
        (run(([1], [2]), exact=False), Reason.INEXACT),
        (run(), Reason.NOTHING_SAMPLED),
        (run(([1], [])), Reason.NOTHING_SAMPLED),
        (run(([1], [2]), is_policy=False), Reason.NOTHING_SAMPLED),
    ],
)
def test_some_runs_are_refused_for_every_use(trace, reason):
    assert refusal(trace).reason is reason
    assert refusal(trace, off_policy=False).reason is reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"logprobs": None}, Reason.NO_LOGPROBS),
        ({"logprobs": [float("nan"), -1.0]}, Reason.NO_LOGPROBS),
        ({"sampling": {"temperature": 0}}, Reason.GREEDY),
        ({"logprobs_mode": "raw_logprobs"}, Reason.OTHER_LOGPROBS),
        ({"logprobs_mode": ""}, Reason.OTHER_LOGPROBS),
        ({"logprobs_mode": "processed_logits", "sampling": {}}, Reason.OTHER_LOGPROBS),
        ({"sampling": {"top_p": 0.9}}, Reason.TRUNCATED),
        ({"sampling": {"top_k": 20}}, Reason.TRUNCATED),
        ({"sampling": {"tool_choice": "required"}}, Reason.TRUNCATED),
        ({"sampling": {"response_format": {"type": "json_object"}}}, Reason.TRUNCATED),
        ({"sampling": {"repetition_penalty": 1.1}}, Reason.TRUNCATED),
        ({"sampling": {"logit_bias": {"7": -100}}}, Reason.TRUNCATED),
        ({"sampling": {"min_tokens": 4}}, Reason.TRUNCATED),
        ({"sampling": sampling_of({"temperature": 1, "extra_body": {"top_k": 20}})}, Reason.TRUNCATED),
    ],
)
def test_some_runs_are_refused_where_log_probabilities_count_and_taken_otherwise(options, reason):
    trace = run(([1], [2, 3]), **options)
    assert refusal(trace).reason is reason
    (row,) = rollout_of(trace, off_policy=False).rows
    assert row.trained.tolist() == [False, True, True]
    assert (row.temperatures > 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": {}, "logprobs_mode": ""},
        {"sampling": {"temperature": 1.0}, "logprobs_mode": "raw_logprobs"},
        {"sampling": {"temperature": 0.5, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "tool_choice": "auto", "seed": 3}},
    ],
)
def test_neutral_sampling_is_taken(options):
    (row,) = rollout_of(run(([1], [2, 3]), **options)).rows
    assert row.temperatures[1] == options["sampling"].get("temperature", 1.0)


def test_truncated_sampling_is_taken_by_whoever_asks_for_it():
    trace = run(([1], [2]), sampling={"temperature": 0.6, "top_p": 0.95})
    assert "top_p=0.95" in str(refusal(trace))
    assert rollout_of(trace, take_truncated=True).trained_tokens == 1


def test_ids_of_another_vocabulary_are_refused_wherever_they_stand():
    trace = run(([1, 99], [2]))
    error = refusal(trace, vocabulary=99)
    assert error.reason is Reason.VOCABULARY
    assert "token id 99, and the model has 99 tokens" in str(error)
    assert rollout_of(trace, vocabulary=100).trained_tokens == 1


@pytest.mark.parametrize(("failed", "refused"), [(2.0, True), (0.5, False)])
def test_a_run_whose_last_policy_call_failed_is_refused(failed, refused):
    trace = run(([1], [2]), status=TraceStatus.ERROR)
    trace.calls.append(TraceCall(0, Call(CallKind.POLICY, "policy", CallStatus.ERROR), started=failed))
    if refused:
        assert refusal(trace).reason is Reason.CUT_OFF
    else:
        assert rollout_of(trace).trained_tokens == 1


def test_refusals_are_counted_by_reason_and_the_rest_is_read():
    read = rollouts_of(
        [
            run(([1], [2, 3]), id="good"),
            run(([1], [2]), id="open", status=TraceStatus.RUNNING),
            run(([1], [2]), id="open 2", status=TraceStatus.RUNNING),
            run(([1], [2]), id="foreign", exact=False),
        ]
    )
    assert [rollout.trace_id for rollout in read.rollouts] == ["good"]
    assert read.counts == {Reason.RUNNING: 2, Reason.INEXACT: 1}
    assert {refused.trace_id for refused in read.refused} == {"open", "open 2", "foreign"}
    assert read.report() == (
        "1 traces read: 1 rows, 2 trained tokens; 3 refused: 2 running (such as open), 1 inexact (such as foreign)"
    )


def test_no_traces_give_no_rollouts():
    assert rollouts_of([]).report() == "0 traces read: 0 rows, 0 trained tokens"


def test_a_turn_without_a_temperature_was_sampled_at_one():
    trace = run(([1], [2]), sampling={})
    turn = trace.graph.nodes[-1].turn
    assert turn is not None
    assert temperature_of(turn) == 1.0


# --- examples


def test_a_rollout_weighs_one_however_many_rows_it_gives():
    rollouts = [rollout_of(run(([1], [2, 3]), ([4], [5]), id="two rows")), rollout_of(run(([1], [2]), id="one row"))]
    examples = examples_of(rollouts, {"two rows": 2.0, "one row": -1.0})
    weights: dict[str, float] = {}
    for example in examples:
        weights[example.row.trace_id] = weights.get(example.row.trace_id, 0.0) + float(example.weights.sum())
    assert weights == pytest.approx({"two rows": 1.0, "one row": 1.0})
    assert [example.advantages.tolist() for example in examples] == [[0, 2, 2], [0, 2], [0, -1]]
    assert examples[0].weights.tolist() == pytest.approx([0, 1 / 3, 1 / 3])


def test_credits_go_to_the_tokens_of_their_node():
    rollout = rollout_of(run(([1], [2, 3]), ([4], [5])))
    first, second = (int(row.nodes[row.trained][0]) for row in rollout.rows)
    examples = examples_of([rollout], {"t": 1.0}, {"t": {first: -0.5, None: 0.25}})
    assert [example.advantages.tolist() for example in examples] == [[0, 0.75, 0.75], [0, 1.25]]
    assert first != second


@pytest.mark.parametrize(
    ("advantages", "credit", "message"),
    [
        ({}, None, "advantage of trace t is None"),
        ({"t": float("nan")}, None, "advantage of trace t is nan"),
        ({"t": 1.0}, {"t": {7: 1.0}}, "for node 7, which trains no token"),
        ({"t": 1.0}, {"t": {1: float("inf")}}, "not all numbers"),
    ],
)
def test_what_does_not_go_together_is_refused(advantages, credit, message):
    with pytest.raises(ExampleError, match=message):
        examples_of([rollout_of(run(([1], [2])))], advantages, credit)
