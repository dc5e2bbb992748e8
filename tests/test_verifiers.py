from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles import unused_port
from toolorch_integrations import Endpoint, Price
from toolorch_integrations.errors import StoreError
from toolorch_integrations.store import TraceStore
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_integrations.trace import Feedback, Trace
from toolorch_rl.verifiers import (
    DatabaseVerifier,
    ExactVerifier,
    FeedbackVerifier,
    JudgeBudgetError,
    JudgeVerifier,
    NumericVerifier,
    ProgramLimits,
    ProgramVerifier,
    Quantity,
    Question,
    SetVerifier,
    VerifierError,
    compare_databases,
    last_quantity,
    verify_all,
)

# Texts


def test_exact_ignores_what_people_leave_out_unless_strict():
    assert ExactVerifier().verify("New York", ' "new  york". ').passed
    assert not ExactVerifier(strict=True).verify("New York", "new york").passed
    assert ExactVerifier().verify(["NYC", "New York"], "nyc").passed
    verdict = ExactVerifier().verify("Paris", "London")
    assert (verdict.score, verdict.passed) == (0.0, False)
    assert "London" in verdict.reason
    assert "Paris" in verdict.reason


def test_a_trace_is_judged_by_its_answer_and_an_empty_answer_fails():
    assert ExactVerifier().verify("4", Trace(id="t", answer="4")).passed
    assert ExactVerifier().verify("4", Trace(id="t")).reason == "there is no answer"


def test_a_batch_names_the_item_that_cannot_be_judged_and_goes_on():
    items = [("a", "4", "4"), ("b", 4, "4"), ("c", "4", None), ("d", "4", "5")]
    for workers in (1, 3):
        checked = verify_all(ExactVerifier(), items, workers=workers)
        assert [item.item for item in checked] == ["a", "b", "c", "d"]
        assert [item.verdict.passed if item.verdict is not None else None for item in checked] == [
            True,
            None,
            None,
            False,
        ]
        assert checked[1].error.startswith("b: reference must be a text")
        assert checked[2].error.startswith("c: outcome must be an answer")


# Numbers


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("The answer is 42.", 42, ""),
        ("first 3, then -7", -7, ""),
        ("1,234,567.5 in all", 1234567.5, ""),
        ("about 3/4", 0.75, ""),
        ("1 1/2 cups", 1.5, ""),
        (r"\frac{3}{8}", 0.375, ""),
        (r"2\frac{1}{2}", 2.5, ""),
        ("6.02e23", 6.02e23, ""),
        ("$1,200.50", 1200.5, "usd"),
        ("-$5", -5, "usd"),
        ("12 dollars", 12, "usd"),
        ("90 km/h", 90, "km/h"),
        ("60 miles per hour", 60, "mph"),
        ("15 %", 15, "%"),
        ("15 percent", 15, "%"),
        ("1.5 hours", 1.5, "h"),
        ("10 seconds", 10, "s"),
        ("3 apples", 3, ""),
        ("x = .5", 0.5, ""),
        ("on 2024-03-05", 5, ""),
        ("\u22123 m", -3, "m"),
    ],
)
def test_the_last_number_of_a_text_is_read_with_its_unit(text: str, value: float, unit: str):
    found = last_quantity(text)
    assert found is not None
    assert found.value == pytest.approx(value)
    assert found.unit == unit


@pytest.mark.parametrize(
    ("reference", "answer", "passed"),
    [
        ("1.5 km", "1500 m", True),
        ("1.5 km", "1.5", True),
        ("1.5 km", "1500 s", False),
        ("2 h", "120 minutes", True),
        (0.75, "3/4", True),
        (0.15, "15%", True),
        (15, "15%", True),
        ("10 kg", "10.2 kg", False),
        (10, "no idea", False),
        (10, "1/0", False),
        (Quantity(5, "km"), "5 km", True),
    ],
)
def test_numbers_are_equal_in_any_unit_of_the_same_kind(reference: Any, answer: str, passed: bool):
    assert NumericVerifier().verify(reference, answer).passed is passed


def test_tolerances_and_units_that_must_be_there():
    assert NumericVerifier(relative=0.05).verify("10 kg", "10.2 kg").passed
    assert NumericVerifier(absolute=0.5).verify(10, "10.5").passed
    assert not NumericVerifier(absolute=0.4).verify(10, "10.5").passed
    assert not NumericVerifier(unit_required=True).verify("10 kg", "10").passed


@pytest.mark.parametrize("reference", ["none", None, float("nan"), True, [1], Quantity(1, "parsec")])
def test_a_reference_without_a_number_is_an_error(reference: Any):
    with pytest.raises(VerifierError, match=r"reference"):
        NumericVerifier().verify(reference, "1")


@given(st.floats(-1e12, 1e12, allow_nan=False).map(lambda number: round(number, 4)), st.text(" abc:(", max_size=10))
def test_every_number_is_found_as_it_was_written(number: float, before: str):
    assert NumericVerifier().verify(number, f"{before} {number!r}").passed
    assert NumericVerifier().verify(number, f"{before} {number:,.4f}.").passed


# Sets


@pytest.mark.parametrize(
    "answer",
    [
        "red, green and blue",
        "- Blue\n- red\n- GREEN",
        '["green", "blue", "red"]',
        "1. red\n2. green\n3. blue",
        "red; blue; green",
    ],
)
def test_a_list_may_be_written_in_many_ways_and_any_order(answer: str):
    assert SetVerifier().verify({"red", "green", "blue"}, answer).passed


def test_part_of_a_set_earns_part_of_the_score():
    verdict = SetVerifier().verify(["a1", "b2", "c3", "d4"], "d4, a1, x9")
    assert verdict.score == pytest.approx(2 * 2 / (4 + 3))
    assert not verdict.passed
    assert verdict.details == {"missing": ["b2", "c3"], "surplus": ["x9"]}
    assert SetVerifier().verify([1, 2], [2.0, 1]).passed
    assert SetVerifier().verify(["salt and pepper", "oil"], "oil, salt and pepper").passed


@pytest.mark.parametrize("reference", ["red", [], None, [["a"]]])
def test_a_reference_that_is_no_set_is_an_error(reference: Any):
    with pytest.raises(VerifierError, match="reference"):
        SetVerifier().verify(reference, "red")


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.sets(st.sampled_from("abcdefgh"), min_size=1))
def test_a_set_score_is_one_only_for_the_whole_set(wanted: set[str], found: set[str]):
    verdict = SetVerifier().verify(wanted, found)
    assert 0 <= verdict.score <= 1
    assert verdict.passed == (wanted == found) == (verdict.score == 1)
    assert (verdict.score == 0) == (not wanted & found)


# Databases

SCHEMA = """
CREATE TABLE tasks (id INTEGER PRIMARY KEY, title TEXT, done INTEGER DEFAULT 0, created TEXT);
CREATE TABLE tags (task INTEGER, tag TEXT);
INSERT INTO tasks VALUES (1, 'write', 0, 'monday'), (2, 'read', 0, 'monday');
"""


def database(script: str = "", file: Path | str = ":memory:") -> sqlite3.Connection:
    connection = sqlite3.connect(file)
    connection.executescript(SCHEMA + script)
    return connection


GOLDEN = "UPDATE tasks SET done = 1 WHERE id = 1; INSERT INTO tags VALUES (1, 'x'), (1, 'y');"


def test_equal_states_pass_whatever_the_order_of_rows():
    other = database("INSERT INTO tags VALUES (1, 'y'), (1, 'x'); UPDATE tasks SET done = 1 WHERE id = 1;")
    assert DatabaseVerifier().verify(database(GOLDEN), other).passed


def test_differences_say_table_row_and_column():
    actual = database("INSERT INTO tags VALUES (1, 'x'), (1, 'z'); UPDATE tasks SET done = 2 WHERE id = 1;")
    difference = compare_databases(database(GOLDEN), actual)
    assert list(difference.tables) == ["tags", "tasks"]
    assert difference.tables["tags"].missing == [{"task": 1, "tag": "y"}]
    assert difference.tables["tags"].surplus == [{"task": 1, "tag": "z"}]
    ((golden, found),) = difference.tables["tasks"].changed
    assert (golden["done"], found["done"]) == (1, 2)
    assert "row id=1: done is 2, not 1" in difference.text()


def test_the_score_is_the_share_of_the_right_changes():
    initial = database()
    verifier = DatabaseVerifier(initial)
    nothing = verifier.verify(database(GOLDEN), database())
    part = verifier.verify(database(GOLDEN), database("INSERT INTO tags VALUES (1, 'x');"))
    more = verifier.verify(database(GOLDEN), database(GOLDEN + "DELETE FROM tasks WHERE id = 2;"))
    assert nothing.score == 0
    assert part.score == pytest.approx(1 / 4)  # a changed row counts as one row that goes and one that comes
    assert more.score == pytest.approx(4 / 5)
    assert not more.passed
    assert more.details["tables"] == {"tasks": {"missing": 1, "surplus": 0, "changed": 0}}
    assert DatabaseVerifier().verify(database(GOLDEN), database("INSERT INTO tags VALUES (1, 'x');")).score == 0


def test_duplicate_rows_count():
    once = database("INSERT INTO tags VALUES (1, 'x');")
    twice = database("INSERT INTO tags VALUES (1, 'x'), (1, 'x');")
    assert compare_databases(once, twice).tables["tags"].surplus == [{"task": 1, "tag": "x"}]


def test_ignored_columns_and_tables_do_not_count():
    later = database("UPDATE tasks SET created = 'tuesday';")
    assert compare_databases(database(), later)
    assert not compare_databases(database(), later, ignore_columns={"tasks": ["created"]})
    assert not compare_databases(database(), later, ignore_columns={"*": ["created"]})
    assert not compare_databases(database(), later, ignore_tables=["tasks"])
    renumbered = database("UPDATE tasks SET id = id + 10;")
    assert not compare_databases(database(), renumbered, ignore_columns={"tasks": ["id"]})


def test_tables_and_columns_that_are_not_there_are_named():
    assert "tags: the table is missing" in compare_databases(database(), database("DROP TABLE tags;")).text()
    assert "extra: the table should not" in compare_databases(database(), database("CREATE TABLE extra (a);")).text()
    assert "its columns are" in compare_databases(database(), database("ALTER TABLE tags ADD COLUMN more;")).text()


def test_files_are_only_read_and_what_is_no_database_is_named(tmp_path: Path):
    file = tmp_path / "state #1.db"
    database(GOLDEN, file).close()
    before = file.read_bytes()
    assert DatabaseVerifier().verify(file, str(file)).passed
    assert file.read_bytes() == before
    (tmp_path / "text.db").write_text("no database, but long enough to look like something" * 20)
    for bad, why in ((tmp_path / "absent.db", "absent.db' is no file"), (tmp_path / "text.db", "text.db' cannot be")):
        with pytest.raises(VerifierError, match=why):
            DatabaseVerifier().verify(file, bad)
    with pytest.raises(VerifierError, match="outcome must be a SQLite file or connection, got int"):
        DatabaseVerifier().verify(file, 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"))), st.randoms())
def test_the_order_of_inserts_never_matters(rows: list[tuple[int, str]], random: Any):
    shuffled = random.sample(rows, len(rows))
    states = []
    for order in (rows, shuffled):
        states.append(sqlite3.connect(":memory:"))
        states[-1].execute("CREATE TABLE t (a INTEGER, b TEXT)")
        states[-1].executemany("INSERT INTO t VALUES (?, ?)", order)
    assert not compare_databases(*states)
    if rows:
        states[1].execute("DELETE FROM t WHERE rowid = 1")
        assert compare_databases(*states)


# Programs

EVEN = """
import json, sys
item = json.load(sys.stdin)
number = int(item["answer"])
score = 1.0 if number % item["reference"] == 0 else 0.25
print("noise")
print(json.dumps({"score": score, "reason": f"{number} it is"}))
"""


def test_a_program_judges_in_a_child_process():
    verifier = ProgramVerifier(EVEN)
    assert verifier.verify(3, "9").passed
    verdict = verifier.verify(3, "10")
    assert (verdict.score, verdict.passed, verdict.reason) == (0.25, False, "10 it is")
    parent = "import os; print('true' if os.getppid() == int(open(0).read().split()[1][:-1]) else 'false')"
    assert ProgramVerifier(parent).verify(os.getpid(), "").passed


def test_a_program_does_not_see_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_KEY", "secret")
    source = "import os, json; print(json.dumps({'score': 0.5, 'reason': os.environ.get('SECRET_KEY', 'unset')}))"
    assert ProgramVerifier(source).verify(None, "x").reason == "unset"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise KeyError('the rule')", r"exit code 1.*the rule"),
        ("print('fine')", r"it ended with 'fine'"),
        ("", r"it ended with nothing"),
        ("print('{\"score\": 7}')", r"it ended with"),
        ("x = bytearray(2_000_000_000)", r"exit code 1.*MemoryError"),
        ("open('f', 'wb').write(bytes(2_000_000))", r"failed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"SIGSEGV"),
        ("while True: pass", r"signal SIG"),
    ],
)
def test_a_program_that_fails_is_an_error_and_no_wrong_answer(source: str, why: str):
    limits = ProgramLimits(file_bytes=1_000_000, cpu_seconds=1)
    with pytest.raises(VerifierError, match=f"(?s){why}"):
        ProgramVerifier(source, limits).verify(None, "x")


def test_a_program_that_hangs_is_killed():
    with pytest.raises(VerifierError, match=r"killed after 0.3 s"):
        ProgramVerifier("import time; time.sleep(60)", ProgramLimits(seconds=0.3)).verify(None, "x")


def test_nothing_that_a_program_started_outlives_it():
    source = (
        "import subprocess, sys, json\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(json.dumps({'score': 1, 'reason': str(child.pid)}))"
    )
    grandchild = Path("/proc") / ProgramVerifier(source).verify(None, "x").reason
    for _ in range(200):
        try:
            state = (grandchild / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            break
        if state == "Z":
            break
        time.sleep(0.02)
    else:
        pytest.fail("the program's own child is still alive")


def test_a_reference_that_is_not_json_is_named():
    with pytest.raises(VerifierError, match=r"reference \{1\} is not JSON"):
        ProgramVerifier(EVEN).verify({1}, "1")


# Feedback


def test_feedback_of_people_decides_and_the_newest_word_of_each_counts():
    trace = Trace(id="t1")
    trace.feedback = [
        Feedback("t1", "stars", 1, source="ann", created=1),
        Feedback("t1", "stars", 5, source="ann", created=2),
        Feedback("t1", "stars", 3, source="bob", created=1),
        Feedback("t1", "stars", None, "only words", source="cyd"),
        Feedback("t1", "other", 1, source="dan"),
    ]
    verdict = FeedbackVerifier("stars", scale=(1, 5), threshold=0.7).verify(None, trace)
    assert verdict.score == pytest.approx(0.75)
    assert verdict.passed
    assert verdict.details == {"sources": 2}
    with pytest.raises(VerifierError, match="trace t1 has no feedback 'thumbs'"):
        FeedbackVerifier("thumbs").verify(None, trace)
    with pytest.raises(VerifierError, match=r"feedback 'stars' of trace t1 is 5, off the scale"):
        FeedbackVerifier("stars").verify(None, trace)


def test_feedback_is_read_from_the_store_by_trace_id(tmp_path: Path):
    with TraceStore.open(tmp_path / "traces.db") as store:
        store.add(Trace(id="a" * 32))
        store.add_feedback(Feedback("a" * 32, "thumbs", 1.0))
        verifier = FeedbackVerifier("thumbs", store=store)
        assert verifier.verify(None, "a" * 32).passed
        with pytest.raises(StoreError, match="holds no trace 'b'"):
            verifier.verify(None, "b")
    with pytest.raises(VerifierError, match="give the trace, or its id and a `store`"):
        FeedbackVerifier("thumbs").verify(None, "a" * 32)


# Judge

ASK = Question("Capital of France?", "Paris")


def endpoint(server: ScriptedPolicy, **fields: Any) -> Endpoint:
    return Endpoint(url=server.url, model="judge", timeout=5, max_tokens=50, **fields)


def ruling(agree: bool, reason: str = "because") -> str:
    return json.dumps({"agree": agree, "reason": reason})


def user_text(request: Any) -> str:
    return str(request["messages"][1]["content"])


def test_the_judge_is_asked_in_both_orders():
    with ScriptedPolicy(lambda _: Reply(f"Let me see. {ruling(True)}")) as server:
        verdict = JudgeVerifier(endpoint(server)).verify(ASK, "It is Paris.")
        first, second = map(user_text, server.requests)
    assert verdict.passed
    assert verdict.details["disagreement"] is False
    assert first.index("Paris\n") < first.index("It is Paris.\n")
    assert second.index("It is Paris.\n") < second.index("\nParis\n")


def test_a_judge_that_goes_by_the_order_is_reported_and_passes_nothing():
    def favours_the_first(request: Any) -> str:
        text = user_text(request)
        return ruling(text.index("It is Lyon.") > text.index("\nParis\n"), "the first is longer")

    with ScriptedPolicy(favours_the_first) as server:
        verdict = JudgeVerifier(endpoint(server)).verify(ASK, "It is Lyon.")
    assert (verdict.score, verdict.passed) == (0.5, False)
    assert verdict.details["disagreement"] is True
    assert "disagrees with itself" in verdict.reason


def test_the_judge_reads_question_and_answer_of_a_trace():
    with ScriptedPolicy(lambda _: ruling(False, "Lyon is not Paris")) as server:
        judge = JudgeVerifier(endpoint(server))
        verdict = judge.verify("Paris", Trace(id="t", request="Capital of France?", answer="Lyon"))
        assert "Capital of France?" in user_text(server.requests[0])
        assert judge.verify("Paris", Trace(id="t")).reason == "there is no answer"
        assert len(server.requests) == 2
    assert (verdict.score, verdict.reason) == (0.0, "Lyon is not Paris")


def test_a_ruling_that_cannot_be_read_is_asked_for_once_more_and_then_an_error():
    def hesitant(request: Any) -> str:
        return ruling(True) if len(request["messages"]) > 2 else "Well, {it} depends."

    with ScriptedPolicy(hesitant) as server:
        verdict = JudgeVerifier(endpoint(server)).verify(ASK, "Paris")
        assert verdict.passed
        assert verdict.details["requests"] == 4
    with ScriptedPolicy(lambda _: "It depends.") as server:
        with pytest.raises(VerifierError, match=r"gave no ruling in JSON, but 'It depends.'"):
            JudgeVerifier(endpoint(server)).verify(ASK, "Paris")
        assert len(server.requests) == 2


def test_the_judge_never_spends_more_than_its_budget():
    price = Price(input=1000, output=1000)
    with ScriptedPolicy(lambda _: ruling(True)) as server:
        judge = JudgeVerifier(endpoint(server), price=price, max_dollars=20)
        checked = verify_all(judge, [(f"item {number}", ASK, "Paris") for number in range(20)], workers=4)
        made = len(server.requests)
    done = [item for item in checked if item.verdict is not None]
    assert 0 < len(done) < 20
    assert made == 2 * len(done) == judge.requests
    assert judge.spent <= 20
    assert judge.spent == pytest.approx(
        sum(item.verdict.details["dollars"] for item in done if item.verdict is not None)
    )
    assert all("raise `max_dollars`" in item.error for item in checked if item.verdict is None)
    with pytest.raises(JudgeBudgetError, match="raise `max_requests`"):
        JudgeVerifier(Endpoint(url="http://127.0.0.1:1/v1", model="m"), max_requests=3).verify(ASK, "Paris")


def test_a_judge_that_does_not_answer_is_an_error_that_names_it():
    judge = JudgeVerifier(Endpoint(url=f"http://127.0.0.1:{unused_port()}/v1", model="judge", timeout=2), retries=0)
    (checked,) = verify_all(judge, [("item 7", ASK, "Paris")])
    assert checked.verdict is None
    assert checked.error.startswith("item 7: the judge gave no ruling: http://127.0.0.1:")
    with pytest.raises(VerifierError, match="reference must be a Question"):
        judge.verify("Paris", "Paris")
    with pytest.raises(VerifierError, match="`max_dollars` must not be negative"):
        JudgeVerifier(judge.endpoint, max_dollars=-1)
    with pytest.raises(VerifierError, match="the judge reads 10"):
        JudgeVerifier(judge.endpoint, max_characters=10).verify(ASK, "Paris, of course")
