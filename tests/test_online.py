"""Online training: groups ahead of the trainer, their age, what is left out, versions that are published beside it."""

from __future__ import annotations

import asyncio
import errno
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles import app_of
from tests.waiting import until
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_rl.online import OnlineSettings, RolloutMaker, RolloutSource, WeightStream, train_online
from toolorch_rl.rewards import PAPER
from toolorch_rl.rollouts import RolloutError, RolloutPlan, RolloutSettings, Sampling
from toolorch_rl.training import TrainingError, TrainSettings
from toolorch_rl.training.plan import Plan, TrainedOn, add_tasks
from toolorch_rl.weights import ProbeError, Published, WeightsError
from toolorch_rl.weights.probe import ProbeResult
from toolorch_serving.embedded import EmbeddedServer

TASKS = [{"id": f"task-{number}", "text": f"Choose {number}."} for number in range(6)]
RUNS = RolloutSettings(repetitions=4, at_once=16, seconds=60, sampling=Sampling(seeded=True))


def by_seed(request: Any) -> Reply:
    """Say yes or no."""
    return Reply("yes" if request.get("seed", 0) % 2 else "no")


@pytest.fixture
def policy() -> Iterator[ScriptedPolicy]:
    """A scripted policy that says yes or no."""
    with ScriptedPolicy(by_seed) as served:
        yield served


def yes(task: Any, trace: Any, result: Any) -> bool:
    """Only yes is right."""
    return bool(result == "yes")


class Model:
    """Stands for a trained model."""

    def save_pretrained(self, folder: str) -> None:
        """Write something."""
        Path(folder).mkdir(parents=True)
        (Path(folder) / "weights").write_text("1")


class Recorded:
    """A publisher that publishes nowhere, and fails when it is told to."""

    def __init__(self, fails: Sequence[str] = (), error: type[Exception] = ProbeError) -> None:
        self.versions: list[str] = []
        self.fails = fails
        self.error = error

    @property
    def current(self) -> str:
        """The newest version's name."""
        return f"policy-{self.versions[-1]}" if self.versions else "policy"

    def publish(self, version: str, folder: Any, *, reference: Any = None) -> Published:
        """Take note."""
        if version in self.fails:
            raise self.error("the server still answers with the weights from before")
        assert (Path(folder) / "weights").exists()
        self.versions.append(version)
        name = f"policy-{version}"
        return Published(version, name, name, 0.0, ProbeResult(0.0, 1.0, True))


def test_a_source_gives_examples_of_fresh_groups(policy: ScriptedPolicy, tmp_path: Path) -> None:
    stream = WeightStream(Recorded(), tmp_path / "versions", background=False)
    source = RolloutSource(app_of(policy), TASKS, yes, OnlineSettings(groups=3, rollouts=RUNS), weights=stream)
    model: Any = Model()
    try:
        versions = []
        for step in range(4):
            examples = source.next_batch(step, "policy")
            figures = source.metrics()
            assert all(len(example.advantages) == len(example.row) for example in examples)
            totals: dict[str, float] = {}
            for example in examples:
                totals[example.row.trace_id] = totals.get(example.row.trace_id, 0.0) + float(example.weights.sum())
                assert np.isfinite(example.advantages).all()
                assert np.isfinite(example.row.logprobs[example.row.trained]).all()
            assert np.allclose(list(totals.values()), 1.0)
            assert figures["runs"] == 12
            assert 0 < figures["solved"] < 1
            assert figures["staleness"] <= 2
            versions.append(source.after_step(step, model))
        assert versions == ["policy-v0", "policy-v1", "policy-v2", "policy-v3"]
        assert {request["model"] for request in policy.requests} > {"scripted", "policy-v0"}
        assert source.state()["group"] >= 12
    finally:
        source.close()


def test_a_source_names_the_tasks_that_it_has_given_runs_of(policy: ScriptedPolicy, tmp_path: Path) -> None:
    """Whoever made the runs: rollouts that were stored, and runs of the app's own users, which carry no name."""
    settings = OnlineSettings(groups=2, ahead=1.0, rollouts=RUNS)
    with TraceStore.open(tmp_path / "traces.db") as store:
        source = RolloutSource(app_of(policy), TASKS, yes, settings, store=store)
        try:
            assert source.tasks() == set()
            source.next_batch(0, "policy")
            given = source.tasks() & {task["id"] for task in TASKS}
            assert len(given) == 2
            until(lambda: len(list(store.traces())) >= 16)  # two groups more, which wait for the next step
        finally:
            source.close()
        known = TrainedOn((Plan("").with_tasks(source.tasks()),))
        traces = list(store.full_traces())
        trained = {trace.id for trace in traces if trace.metadata["task"] in given}
        assert len(trained) == 8
        assert known.among(traces) == trained
        for trace in traces:
            del trace.metadata["task"]
        assert known.among(traces) == trained


def test_a_version_says_which_training_it_comes_from(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    Plan("", tasks=["task-1"]).write(output)
    stream = WeightStream(Recorded(), tmp_path / "versions", training=output)
    stream.send(0, Model())
    stream.wait()
    add_tasks(output, ["task-2"])
    [folder] = (tmp_path / "versions").iterdir()
    assert [plan.tasks for plan in TrainedOn.read(folder).plans] == [[], ["task-1", "task-2"]]


def test_advantages_follow_the_rewards(policy: ScriptedPolicy) -> None:
    seen: list[Any] = []
    source = RolloutSource(
        app_of(policy),
        TASKS,
        yes,
        OnlineSettings(groups=2, rollouts=RUNS, ahead=0),
        ended=lambda groups, rewards: seen.append((list(groups), rewards)),
    )
    try:
        examples = source.next_batch(0, "policy")
    finally:
        source.close()
    passed = {run.trace.id: run.verdict.passed for groups, _ in seen for group in groups for run in group.runs}
    assert examples
    for example in examples:
        signs = np.sign(example.advantages[example.row.trained])
        assert set(signs.tolist()) == {1.0 if passed[example.row.trace_id] else -1.0}


def test_a_source_with_a_time_limit_says_what_is_left_and_then_ends(policy: ScriptedPolicy) -> None:
    settings = OnlineSettings(groups=2, rollouts=RUNS, ahead=0, seconds=1000)
    source = RolloutSource(app_of(policy), TASKS, yes, settings)
    try:
        assert source.next_batch(0, "policy")
        assert 0 < source.metrics()["seconds_left"] < 1000
        source._since -= 1000
        assert source.next_batch(1, "policy") == []
        assert source.metrics()["seconds_left"] == 0
    finally:
        source.close()


def test_no_more_groups_are_begun_than_allowed(policy: ScriptedPolicy) -> None:
    maker = RolloutMaker(app_of(policy), lambda start: itertools.cycle(TASKS), RolloutPlan(yes, RUNS))
    maker.start()
    try:
        maker.allow(3)
        found = [maker.next(30).number for _ in range(3)]
        assert sorted(found) == [0, 1, 2]
        assert maker.begun == 3
        with pytest.raises(RolloutError, match=r"within 0.3 s"):
            maker.next(0.3)
        maker.allow(4)
        assert maker.next(30).number == 3
    finally:
        maker.stop()


def test_groups_that_have_grown_too_old_are_replaced(policy: ScriptedPolicy, tmp_path: Path) -> None:
    stream = WeightStream(Recorded(), tmp_path / "versions", background=False)
    settings = OnlineSettings(groups=2, rollouts=RUNS, ahead=2, max_staleness=1)
    source = RolloutSource(app_of(policy), TASKS, yes, settings, weights=stream)
    model: Any = Model()
    try:
        source.next_batch(0, "policy")
        until(lambda: source.state()["group"] == 6)
        for step in range(3):  # three versions while four groups of the first one are ready or under way
            source.after_step(step, model)
        source.next_batch(3, "policy-v2")
        assert source.metrics()["staleness_max"] <= 1
        assert source.metrics()["left_out"] >= 4
    finally:
        source.close()


def test_rewards_that_are_all_equal_end_it_with_the_count() -> None:
    with ScriptedPolicy(["yes"]) as policy:
        source = RolloutSource(app_of(policy), TASKS, yes, OnlineSettings(groups=2, rollouts=RUNS, rounds=2))
        try:
            with pytest.raises(RolloutError, match=r"2 rounds of 2 groups gave.*16 in a group of equal"):
                source.next_batch(0, "policy")
        finally:
            source.close()


def test_runs_that_are_too_long_are_left_out_and_counted(policy: ScriptedPolicy) -> None:
    with_long = [{"id": "long", "text": "Choose. " * 40}, TASKS[0]]
    settings = OnlineSettings(groups=2, ahead=0, rollouts=RUNS, max_length=60)
    source = RolloutSource(app_of(policy), with_long, yes, settings)
    try:
        examples = source.next_batch(0, "policy")
        assert source.metrics()["trained_runs"] == 4
        assert source.metrics()["left_out"] == 4
    finally:
        source.close()
    assert max(len(example.row) for example in examples) <= 60


def test_a_resumed_source_goes_on_with_other_groups(policy: ScriptedPolicy) -> None:
    numbers: list[int] = []
    settings = OnlineSettings(groups=2, rollouts=RUNS, ahead=0)

    def note(groups: Sequence[Any], rewards: Any) -> None:
        numbers.extend(group.number for group in groups)

    first = RolloutSource(app_of(policy), TASKS, yes, settings, ended=note)
    first.next_batch(0, "policy")
    state = first.state()
    first.close()
    again = RolloutSource(app_of(policy), TASKS, yes, settings, ended=note)
    again.restore(state)
    again.next_batch(1, "policy")
    again.close()
    assert len(set(numbers)) == len(numbers) >= 4


def test_a_version_that_is_refused_ends_the_training_by_name(tmp_path: Path) -> None:
    stream = WeightStream(Recorded(fails=["v1"]), tmp_path / "versions")
    stream.send(0, Model())
    stream.send(1, Model())
    with pytest.raises(RolloutError, match=r"the new weights are not served: .*from before"):
        stream.send(2, Model())
    assert stream.model == "policy-v0"
    assert stream.number == 1


def test_a_server_that_cannot_be_reached_gets_the_next_version(tmp_path: Path) -> None:
    stream = WeightStream(Recorded(fails=["v1", "v3", "v4", "v5"], error=WeightsError), tmp_path, background=False)
    for step in range(3):
        stream.send(step, Model())
    assert (stream.model, stream.number) == ("policy-v2", 2)
    stream.send(3, Model())
    stream.send(4, Model())
    with pytest.raises(RolloutError, match="not served"):
        stream.send(5, Model())  # the third time in a row


def test_a_resumed_run_makes_its_first_rollouts_with_its_own_weights(policy: ScriptedPolicy, tmp_path: Path) -> None:
    stream = WeightStream(Recorded(), tmp_path / "versions")
    settings = OnlineSettings(groups=1, rollouts=RUNS, publish_every=3)
    source = RolloutSource(app_of(policy), TASKS, yes, settings, weights=stream)
    source.restore({"group": 4})
    model: Any = Model()
    try:
        assert source.after_step(7, model) == "policy-v7"
        source.next_batch(8, "policy-v7")
        assert {request["model"] for request in policy.requests} == {"policy-v7"}
    finally:
        source.close()


def test_versions_of_a_resumed_run_have_names_of_their_own(tmp_path: Path) -> None:
    publisher = Recorded()
    for mark in ("-a", "-b"):  # the second goes on from a checkpoint before the first's last version
        WeightStream(publisher, tmp_path / "versions", background=False, mark=mark).send(3, Model())
    assert publisher.versions == ["v3-a", "v3-b"]


def test_a_restarted_server_gets_the_newest_version_again(tmp_path: Path) -> None:
    publisher = Recorded()
    stream = WeightStream(publisher, tmp_path / "versions", keep=2)
    for step in range(4):
        stream.send(step, Model())
    stream.wait()
    stream.again()
    assert publisher.versions == ["v0", "v1", "v2", "v3", "v3"]
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["v2", "v3"]


def test_only_versions_of_this_run_are_removed(tmp_path: Path) -> None:
    for name in ("v1", "v2", "v1-beef", "validation"):  # the user's own, the last two much like versions
        Model().save_pretrained(str(tmp_path / name))
    stream = WeightStream(Recorded(), tmp_path, keep=2, background=False, mark="-cafe")
    for step in range(4):
        stream.send(step, Model())
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["v1", "v1-beef", "v2", "v2-cafe", "v3-cafe", "validation"]


def test_a_resumed_run_removes_the_versions_that_it_saved_before(policy: ScriptedPolicy, tmp_path: Path) -> None:
    def source_of(mark: str) -> RolloutSource:
        stream = WeightStream(Recorded(), tmp_path, keep=2, background=False, mark=mark)
        return RolloutSource(app_of(policy), TASKS, yes, OnlineSettings(rollouts=RUNS), weights=stream)

    Model().save_pretrained(str(tmp_path / "v0"))
    model: Any = Model()
    first, again = source_of("-cafe"), source_of("-beef")
    state = first.state()
    first.after_step(0, model)  # after the checkpoint: the state knows the mark alone
    first.after_step(1, model)
    first.close()
    again.restore(state)
    again.after_step(0, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v0", "v0-beef", "v1-cafe"]
    again.after_step(1, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v0", "v0-beef", "v1-beef"]
    assert again.state()["marks"] == ["-beef", "-cafe"]
    again.close()


def test_versions_that_are_served_outlast_those_that_were_not(tmp_path: Path) -> None:
    publisher = Recorded(fails=["v1", "v2"], error=WeightsError)
    stream = WeightStream(publisher, tmp_path, keep=2, background=False)
    for step in range(4):
        stream.send(step, Model())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v0", "v3"]


def test_a_version_is_never_written_over_what_is_there(tmp_path: Path) -> None:
    Model().save_pretrained(str(tmp_path / "v0"))
    with pytest.raises(RolloutError, match="v0 is there already"):
        WeightStream(Recorded(), tmp_path).send(0, Model())


def test_a_full_disk_is_named_and_leaves_no_half_version(tmp_path: Path) -> None:
    class Large(Model):
        def save_pretrained(self, folder: str) -> None:
            super().save_pretrained(folder)
            raise OSError(errno.ENOSPC, "No space left on device")

    stream = WeightStream(Recorded(), tmp_path / "versions", mark="-ab")
    with pytest.raises(RolloutError, match=r"version v3-ab cannot be saved: the disk of .*versions is full; make room"):
        stream.send(3, Large())
    assert not (tmp_path / "versions" / "v3-ab").exists()


def test_that_the_last_version_is_not_served_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream = WeightStream(Recorded(fails=["v1"]), tmp_path)
    stream.send(0, Model())
    stream.send(1, Model())
    stream.close()
    assert "the newest weights are not served, but policy-v0: the server still answers" in caplog.text


def test_rollouts_that_fail_for_good_reach_the_trainer(policy: ScriptedPolicy) -> None:
    def tasks(start: int) -> Iterator[Any]:
        yield TASKS[0]
        raise RuntimeError("the task file has ended")

    source = RolloutSource(app_of(policy), tasks, yes, OnlineSettings(groups=2, rollouts=RUNS))
    try:
        with pytest.raises(RolloutError, match="the task file has ended"):
            source.next_batch(0, "policy")
    finally:
        source.close()


def test_closing_does_not_wait_for_a_run_that_hangs() -> None:
    release = threading.Event()

    def app(task: Any) -> str:
        release.wait(300)
        return "yes"

    source = RolloutSource(app, TASKS, yes, OnlineSettings(groups=1, rollouts=RUNS, timeout=0.5))
    with pytest.raises(RolloutError, match=r"within 0.5 s"):
        source.next_batch(0, "policy")
    source.close()
    assert source._maker is not None
    assert not source._maker._thread.is_alive()
    release.set()


def test_several_processes_are_refused_before_anything_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as launchers set it
    publisher, model = Recorded(), Model()
    source = RolloutSource(asyncio.sleep, TASKS, yes, weights=WeightStream(publisher, tmp_path / "versions"))
    with pytest.raises(RolloutError, match=r"there are 2: start it with one \(accelerate launch --num_processes 1\)"):
        source.after_step(0, model)  # type: ignore[arg-type]
    source.close()
    assert publisher.versions == []
    assert not (tmp_path / "versions").exists()
    with pytest.raises(RolloutError, match="publishes from one process"):
        train_online(asyncio.sleep, TASKS, yes, server="http://127.0.0.1:9", policy="p", output=tmp_path, steps=1)


def test_training_that_ends_closes_its_connections(
    embedded_server: EmbeddedServer,
    tiny_policy: Path,
    tiny_adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published: list[RolloutSource] = []

    def fails(settings: Any, source: RolloutSource) -> None:
        published.append(source)
        raise TrainingError("the disk is full")

    monkeypatch.setattr("toolorch_rl.online.run.train", fails)
    with pytest.raises(TrainingError, match="the disk is full"):
        train_online(
            asyncio.sleep, TASKS, yes, server=embedded_server, policy=str(tiny_policy), output=tmp_path, steps=1
        )
    weights = published[0]._weights
    assert weights is not None
    with pytest.raises(RuntimeError, match="closed"):
        weights._publisher.publish("v9", tiny_adapter)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RolloutError, match="groups is 0"):
        OnlineSettings(groups=0)
    with pytest.raises(RolloutError, match="repetitions must be 2 or more"):
        OnlineSettings(rollouts=RolloutSettings(repetitions=1))
    with pytest.raises(RolloutError, match="tasks is empty"):
        RolloutSource(asyncio.sleep, [], yes)
    with pytest.raises(RolloutError, match="keep is 0"):
        WeightStream(Recorded(), keep=0)


# --- what training's own settings say


def online_training(**values: Any) -> TrainSettings:
    return TrainSettings.of({"policy": "p", "output": "o", "method": "online", "steps": 1, **values})


def test_preferences_preset_and_filters_may_stand_in_either_settings() -> None:
    frugal = Preferences(cost=1.0)
    said = online_training(preferences=frugal, preset="paper", filters=["quality"])
    found = OnlineSettings(groups=3).agreed(said)
    assert (found.preferences, found.preset, found.filters, found.groups) == (frugal, PAPER, ("quality",), 3)
    own = OnlineSettings(preferences=frugal, preset=PAPER, filters=("format",))
    assert own.agreed(online_training()) == own
    assert own.agreed(online_training(preferences=frugal, preset="paper", filters=["format"])) == own


def test_preferences_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(RolloutError, match="preferences is given twice, and not alike"):
        OnlineSettings(preferences=Preferences(cost=1.0)).agreed(online_training(preferences=Preferences(cost=0.5)))


@pytest.mark.parametrize("given", [{"since": 60.0}, {"model": "v1"}, {"group_by": "x"}, {"max_staleness": 2}])
def test_settings_that_choose_captured_traces_are_refused(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(TrainingError, match=f"{name}: online training reads no captured traces"):
        online_training(**given)
