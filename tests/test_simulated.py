"""Simulated specialists: they really solve, really err, count real tokens, and fail as they are asked to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.completion import complete
from toolorch_integrations.errors import EndpointError, ToolorchError
from toolorch_integrations.prompt import specialist_messages
from toolorch_serving.simulated import SPECIALISTS, SimulatedSpecialists
from toolorch_serving.simulated.solution import Question
from toolorch_serving.simulated.specialists import UNKNOWN, solve
from toolorch_serving.simulated.tokens import count, count_messages

BY_NAME = {specialist.name: specialist for specialist in SPECIALISTS}
DOCUMENTS = (
    "\n\nResults so far:\n[search_docs] Alder tent. Price $189. Weight 2.1 kg. Two doors.\n"
    "[search_docs] Birch stove. Price $45. Weight 0.4 kg. Burns gas."
)


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatedSpecialists]:
    with SimulatedSpecialists(latency_scale=0) as running:
        yield running


@pytest.mark.parametrize(
    ("text", "domain", "value"),
    [
        ("What is 347 * 29?", "arithmetic", "10063"),
        ("Hi! What is 15% of 240?", "arithmetic", "36"),
        ("Calculate (12 + 45) * 7.", "arithmetic", "399"),
        ("Anna and Ben are 36 km apart and walk towards each other at 4 km/h and 5 km/h. When?", "mathematics", "4"),
        ("Solve 3x + 2y = 16 and 2x - 3y = 2. What is y?", "mathematics", "2"),
        ("Anna paints the hut in 6 hours, and Ben in 3 hours. How long together?", "mathematics", "2"),
        ("A price rises by 20% and then falls by 10%. What is the total change?", "mathematics", "8"),
        ("Anna is 3 times as old as Ben. In 6 years Anna will be 2 times as old as Ben. How old?", "mathematics", "6"),
        ("How many litres of 20% juice must be added to 5 litres of 50% juice to get 30% juice?", "mathematics", "10"),
        ("What are $400 worth after 3 years at 5% interest a year?", "mathematics", "463.05"),
        ("What is the larger root of x^2 - 7x + 12 = 0?", "mathematics", "4"),
        ("How many zeros does 125! end with?", "numbers", "31"),
        ("What is the last digit of 7^222?", "numbers", "9"),
        ("How many shortest paths lead across a 4 by 6 grid?", "numbers", "210"),
        ("How many divisors does 360 have?", "numbers", "24"),
        ("What is the greatest common divisor of 462 and 1071?", "numbers", "21"),
        ("What is the probability of exactly 3 heads in 5 tosses?", "numbers", "5/16"),
        ("Which weekday was 14 July 1789?", "numbers", "Tuesday"),
        ("How many metres are 3.5 kilometres?", "everyday", "3500"),
        ("Which date is 45 days after 3 March 2026?", "everyday", "17 April 2026"),
    ],
)
def test_solves_and_errs_plausibly(text: str, domain: str, value: str) -> None:
    solution = solve(Question(text))
    assert solution is not None
    assert solution.domain == domain
    assert solution.right.endswith((f"is {value}.", f"= {value}."))
    assert solution.wrong != solution.right
    assert not solution.wrong.endswith((f" {value}.",))


def test_programs_are_run() -> None:
    solution = solve(Question("What does this Python code print?\nx = [3, 1, 2]\nx.sort()\nprint(x)"))
    assert solution is not None
    assert solution.right == "It prints: [1, 2, 3]"
    assert solution.wrong == "It prints: [2, 3]"


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "x = 'a' * 10**10\nprint(1)",
        "open('made-by-a-question', 'w')\nprint(1)",
        "import socket\nsocket.socket()\nprint(1)",
    ],
)
def test_programs_are_bounded(program: str) -> None:
    assert solve(Question(f"What does this Python code print?\n{program}")) is None


def test_documents_are_needed_and_read() -> None:
    total = "What do 2 Alder tents and 3 Birch stoves cost together?"
    lighter = "Which is lighter, the Alder tent or the Birch stove?"
    expert = BY_NAME["expert"]
    assert "do not know" in expert.answer(total)
    assert "do not know" in expert.answer(lighter)
    assert expert.answer("Within how many days do you match a lower price?") == UNKNOWN
    assert expert.answer(total + DOCUMENTS) == "2 x $189 + 3 x $45 makes $513."
    assert expert.answer(lighter + DOCUMENTS).endswith("It is the Birch stove.")
    assert expert.answer("What is the weight of the Alder tent?" + DOCUMENTS) == "Alder tent: Weight 2.1 kg."


def test_prompts_of_the_orchestrator_are_understood() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "search_docs", "arguments": "{}"}}
    conversation = [
        {"role": "user", "content": "What is the price of the Alder tent?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Alder tent. Price $189. Weight 2.1 kg."},
    ]
    entry = BY_NAME["expert"].entry("http://127.0.0.1:1/v1")
    [message] = specialist_messages(entry, conversation)
    assert BY_NAME["expert"].answer(message["content"]) == "Alder tent: Price $189."
    [message] = specialist_messages(entry, conversation[:1], task="What is 20 * 3?")
    assert BY_NAME["expert"].answer(message["content"]) == "20 * 3 = 60."


def test_skill_is_met_and_replies_are_reproducible() -> None:
    questions = [f"What is the last digit of {base}^{power}?" for base in range(2, 12) for power in range(30, 60)]
    right = {
        name: sum(BY_NAME[name].answer(text) == solve(Question(text)).right for text in questions) / len(questions)  # type: ignore[union-attr]
        for name in ("mathematician", "expert")
    }
    assert right["expert"] > 0.93
    assert 0.02 < right["mathematician"] < 0.35
    assert [BY_NAME["coder"].answer(text) for text in questions] == [
        BY_NAME["coder"].answer(text) for text in questions
    ]
    assert any(BY_NAME["coder"].answer(text, seed=1) != BY_NAME["coder"].answer(text) for text in questions)


def test_serves_a_catalogue(simulated: SimulatedSpecialists) -> None:
    entries = simulated.catalog()
    assert len(Catalog(entries)) == 4
    generalist, expert = entries[0], entries[-1]
    assert 10 <= expert.price.input / generalist.price.input <= 20
    messages = [{"role": "user", "content": "What is 347 * 29?"}]
    assert expert.endpoint is not None
    done = complete(expert.endpoint, messages)
    assert done.text == "347 * 29 = 10063."
    assert (done.model, done.input_tokens, done.output_tokens) == ("expert", count_messages(messages), count(done.text))
    assert done.input_tokens > done.output_tokens > 3


def test_latency_is_slept() -> None:
    with SimulatedSpecialists(latency_scale=1.0) as real:
        [expert] = real.catalog(["expert"])
        assert expert.endpoint is not None
        assert expert.latency is not None
        assert complete(expert.endpoint, [{"role": "user", "content": "Hello!"}]).seconds >= expert.latency


def test_streams_the_same_text(simulated: SimulatedSpecialists) -> None:
    body = {
        "model": "expert",
        "messages": [{"role": "user", "content": "What is 347 * 29?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with httpx.stream("POST", f"{simulated.url}/chat/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == "347 * 29 = 10063."
    assert chunks[-1]["usage"]["completion_tokens"] == count(text)


@pytest.mark.parametrize("fault", ["down", "nonsense", "429", "500"])
def test_faults_by_header_and_by_name(simulated: SimulatedSpecialists, fault: str) -> None:
    [coder] = simulated.catalog(["coder"])
    assert coder.endpoint is not None
    messages = [{"role": "user", "content": "Hello!"}]
    by_header = coder.endpoint.model_copy(update={"headers": {"x-simulated-fault": fault}})
    by_name = coder.endpoint.model_copy(update={"model": f"coder!{fault}"})
    for endpoint in (by_header, by_name):
        with pytest.raises(EndpointError):
            complete(endpoint, messages, retries=0)
    assert complete(coder.endpoint, messages).text


def test_fault_that_passes_is_retried(simulated: SimulatedSpecialists) -> None:
    [coder] = simulated.catalog(["coder"])
    assert coder.endpoint is not None
    endpoint = coder.endpoint.model_copy(update={"model": "coder!first-500"})
    done = complete(endpoint, [{"role": "user", "content": "Hello, again!"}], retries=2)
    assert done.attempts == 2


def test_slow_runs_into_the_timeout(simulated: SimulatedSpecialists) -> None:
    [coder] = simulated.catalog(["coder"])
    assert coder.endpoint is not None
    slow = coder.endpoint.model_copy(update={"model": "coder!slow", "timeout": 0.3})
    with pytest.raises(EndpointError, match="did not answer within"):
        complete(slow, [{"role": "user", "content": "Hello!"}], retries=0)


def test_bad_requests_are_refused(simulated: SimulatedSpecialists) -> None:
    url = f"{simulated.url}/chat/completions"
    missing = httpx.post(url, json={"model": "nobody", "messages": [{"role": "user", "content": "x"}]})
    assert missing.status_code == 404
    assert "generalist" in missing.json()["error"]["message"]
    assert httpx.post(url, json={"model": "coder", "messages": []}).status_code == 400


def test_ends_and_says_when_it_is_not_running() -> None:
    simulated = SimulatedSpecialists(latency_scale=0)
    with pytest.raises(ToolorchError, match="not running"):
        _ = simulated.url
    with simulated:
        url = simulated.url
        assert httpx.get(f"{url}/models").status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/models")


def test_ends_when_its_parent_is_killed() -> None:
    code = (
        "from toolorch_serving.simulated import SimulatedSpecialists as S; import time\n"
        "s = S(latency_scale=0).start(); print(s.url, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert httpx.get(f"{url}/models").status_code == 200
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        try:
            httpx.get(f"{url}/models", timeout=2)
        except httpx.HTTPError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the server outlives its parent")
