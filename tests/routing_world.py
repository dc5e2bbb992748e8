"""A world for tests of training: a tiny policy that answers each request with one of four names, and runs of it.

The policy is a real model: it was taught to draw the names about evenly, and what it "captures" is sampled from it, so
ids and log-probabilities are what a server would have given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_policy import build
from toolorch_integrations.events import PolicyCalled, TraceStatus
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Reward, Trace
from toolorch_rl.trace_rows import rollouts_of
from toolorch_rl.training import TrainSettings
from toolorch_rl.training.corpus import read_traces
from toolorch_rl.training.material import material_of

NAMES = ("tokyo", "search", "query", "answer")
REQUESTS = ("find", "both", "talk", "plain")
GOOD = "query"
"""The name that is rewarded."""


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So small a model gains nothing from a second thread; and nothing is asked of a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a policy that answers each request with one of the names; it is never changed."""
    return build_router(tmp_path_factory.mktemp("router"))


@pytest.fixture(scope="session")
def router_runs(router: Path) -> Runs:
    """Makes runs of the router."""
    return Runs(router)


@pytest.fixture(scope="session")
def router_store(tmp_path_factory: pytest.TempPathFactory, router_runs: Runs) -> str:
    """URL of a store with 48 runs of the router."""
    return stored(tmp_path_factory.mktemp("router-store") / "traces.db", router_runs.traces(12))


def build_router(folder: Path, *, seed: int = 0) -> Path:
    """Write a policy that answers any request with a name, each about as often."""
    build(folder, (), seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [prompt_ids(tokenizer, request) for request in REQUESTS]
    data = [(prompt, tokenizer.encode(f"{name}<|im_end|>")) for prompt in rows for name in NAMES]
    width = max(len(prompt) + len(answer) for prompt, answer in data)
    ids = torch.tensor([[*p, *a, *[0] * (width - len(p) - len(a))] for p, a in data])
    labels = torch.tensor([[-100] * len(p) + [*a] + [-100] * (width - len(p) - len(a)) for p, a in data])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(40):
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def prompt_ids(tokenizer: Any, request: str) -> list[int]:
    """Return the ids of a request, ready for an answer."""
    messages = [{"role": "user", "content": request}]
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def probabilities(folder: Path, adapter: Path | None = None) -> dict[str, float]:
    """Return how likely each name is as the whole answer, on average over the requests."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    found = dict.fromkeys(NAMES, 0.0)
    for request in REQUESTS:
        prompt = prompt_ids(tokenizer, request)
        for name in NAMES:
            answer = tokenizer.encode(f"{name}<|im_end|>")
            found[name] += float(logprobs_of(model, prompt, answer).sum().exp()) / len(REQUESTS)
    return found


def logprobs_of(model: Any, prompt: Sequence[int], answer: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


class Runs:
    """Makes runs of a policy: as many as wanted of each request, with a reward by the answer.

    Args:
        policy: Folder of the policy.
        version: Name that the runs say it had.
        temperature: Of sampling.
    """

    def __init__(self, policy: Path, *, version: str = "policy-1", temperature: float = 1.0) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(policy)
        self.model: Any = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()
        self.version = version
        self.temperature = temperature

    def sample(self, request: str, number: int, seed: int) -> list[tuple[list[int], list[float]]]:
        """Return ids and log-probabilities of so many answers."""
        torch.manual_seed(seed)
        prompt = torch.tensor([prompt_ids(self.tokenizer, request)] * number)
        with torch.inference_mode():
            out = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                temperature=self.temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=6,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )[:, prompt.shape[1] :].tolist()
        end = self.tokenizer.eos_token_id
        answers = [ids[: ids.index(end) + 1] if end in ids else ids for ids in out]
        first = prompt[0].tolist()
        return [(ids, logprobs_of(self.model, first, ids, self.temperature).tolist()) for ids in answers]

    def traces(
        self,
        per_request: int = 16,
        *,
        good: Callable[[str, str], bool] = lambda request, answer: answer == GOOD,
        seed: int = 0,
        started: float = 1000.0,
        requests: Sequence[str] = REQUESTS,
    ) -> list[Trace]:
        """Return runs; `good` says of request and answer whether the task is solved."""
        found = []
        for place, request in enumerate(requests):
            for number, (ids, logprobs) in enumerate(self.sample(request, per_request, seed + place)):
                answer = self.tokenizer.decode(ids, skip_special_tokens=True)
                trace = trace_of(
                    f"{seed + place:016x}{number:016x}",
                    [(prompt_ids(self.tokenizer, request), ids, logprobs)],
                    [{"role": "user", "content": request}],
                    [answer],
                    version=self.version,
                    temperature=self.temperature,
                    started=started + place * 100 + number,
                )
                trace.rewards.append(Reward(trace.id, {"outcome": float(good(request, answer))}, "test"))
                found.append(trace)
        return found


def trace_of(
    name: str,
    calls: Sequence[tuple[Sequence[int] | None, Sequence[int] | None, Sequence[float] | None]],
    messages: Sequence[dict[str, Any]],
    replies: Sequence[str],
    *,
    version: str = "policy-1",
    temperature: float = 1.0,
    started: float = 1000.0,
) -> Trace:
    """Return a finished run: prompt ids, ids and log-probabilities of each call, with a tool's answer between them."""
    trace = Trace(id=name, status=TraceStatus.ANSWERED, started=started, ended=started + 1, app="test")
    trace.request, trace.answer = str(messages[-1]["content"]), replies[-1]
    trace.policy_versions = [version]
    said = list(messages)
    for (prompt, ids, logprobs), reply in zip(calls, replies, strict=True):
        message = {"role": "assistant", "content": reply}
        call = PolicyCalled(
            name,
            list(said),
            message,
            prompt,
            ids,
            logprobs,
            model=version,
            sampling={"temperature": temperature},
            logprobs_mode="processed_logprobs",
            started=started,
            seconds=0.1,
        )
        trace.graph.add_policy_call(call)
        trace.exact = trace.exact and ids is not None
        said += [message, {"role": "user", "content": "go on"}]
    return trace


def stored(path: Path, traces: Sequence[Trace]) -> str:
    """Write runs to a store and return its URL."""
    url = f"sqlite:///{path}"
    with TraceStore.open(url) as store:
        for trace in traces:
            store.add(trace)
    return url


def settings_of(policy: Path, output: Path, store: str = "", **more: Any) -> TrainSettings:
    """Return settings that suit the router."""
    given = {"policy": str(policy), "output": output, "store": store, "steps": 10, "batch": 48, "learning_rate": 1e-3}
    return TrainSettings.of({**given, **more})


def material(settings: TrainSettings) -> Any:
    """Return what a training with these settings is made of."""
    from toolorch_rl.training.trainers import policy_parts

    _, tokenizer, config = policy_parts(settings)
    return material_of(read_traces(settings), settings, tokenizer, config)


def share(found: dict[str, float]) -> float:
    """How much of what goes to any of the names goes to the rewarded one."""
    return found[GOOD] / sum(found.values())


def two_turns(runs: Runs) -> list[Trace]:
    """Runs of one task that wrote the same first answer and then another; the rewarded one said `GOOD`."""
    tokenizer = runs.tokenizer
    found = []
    for number, (second, outcome) in enumerate([(GOOD, 1.0), ("tokyo", 0.0), ("tokyo", 0.0)]):
        prompt = prompt_ids(tokenizer, "find")
        first = tokenizer.encode("answer<|im_end|>")
        between = tokenizer.encode("\n<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n")
        last = tokenizer.encode(f"{second}<|im_end|>")
        calls = [(prompt, first, [-0.5] * len(first)), ([*prompt, *first, *between], last, [-0.5] * len(last))]
        user = [{"role": "user", "content": "find"}]
        trace = trace_of(f"{number:032x}", calls, user, ["answer", second], started=1000.0 + number)
        trace.rewards.append(Reward(trace.id, {"outcome": outcome}))
        found.append(trace)
    return found


def rows_of(url: str) -> list[Any]:
    """Return the rows of all runs in a store."""
    with TraceStore.open(url) as store:
        return [row for rollout in rollouts_of(store.full_traces()).rollouts for row in rollout.rows]
