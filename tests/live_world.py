"""A world for tests of live promotion: a small policy that hands words to a specialist drawn at random, and its app.

Three simulated specialists rewrite words: one does it right and cheaply, one right and dearly, one nearly always wrong.
The policy is real, an engine serves it, and the app is an orchestrator with `RoutedChatPolicy`: nothing is simulated
but the specialists.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from examples.routing.app import answer_in
from examples.routing.requests import SETTINGS, RoutingTask
from examples.routing.requests import text as rewriting
from examples.routing.specialists import SPECIALISTS, direct
from toolorch_integrations import Budget, Catalog
from toolorch_integrations.capture import capture
from toolorch_integrations.langgraph import create_orchestrator
from toolorch_integrations.langgraph.versions import RoutedChatPolicy
from toolorch_integrations.prompt import system_prompt
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Reward
from toolorch_integrations.versions import VersionRouter
from toolorch_rl.recipe.model import small_model
from toolorch_rl.recipe.tokenizer import train_tokenizer
from toolorch_serving.promotion import PromotionRecords

NAME = "words"
URL, STORE = "TOOLORCH_TEST_URL", "TOOLORCH_TEST_STORE"
"""Variables that tell the app, wherever it is imported, whom it asks and where its routes are."""
BUDGET = Budget(turns=2)
CHOSEN = tuple(one for one in SPECIALISTS if one.name in ("atlas", "birch", "ember"))
RIGHT = "birch"
"""Right, and twelve times cheaper than the other that is right."""


def words(count: int, seed: str) -> list[RoutingTask]:
    """Return requests to rewrite a word, each with its answer."""
    made = []
    for index in range(count):
        asked, answer = rewriting(random.Random(f"words {seed} {index}"))
        made.append(RoutingTask(f"{seed}-{index}", "text", asked, answer, SETTINGS["careful"]))
    return made


def held_out() -> list[RoutingTask]:
    """Return the held-out tasks: so many that luck with the dear specialist, asked in a third of runs, evens out."""
    return words(128, "held out")


class App:
    """The app: asked with a task, it answers; its conversations are captured where somebody listens."""

    def __init__(self, url: str, store: str) -> None:
        self.records = PromotionRecords(TraceStore.open(store))
        router = VersionRouter(lambda: self.records.routes(NAME), refresh=0.2)
        policy = RoutedChatPolicy(
            model=NAME, base_url=url, max_tokens=40, max_retries=3, timeout=60, temperature=1.0, router=router
        )
        self.agent = create_orchestrator(policy, specialists=[direct(one) for one in CHOSEN], budget=BUDGET)

    async def __call__(self, task: RoutingTask, thread: str = "") -> str:
        """Answer a task, as a conversation of its own."""
        config: Any = {"configurable": {"thread_id": thread or f"{task.id} {random.random()}"}}
        said = {"messages": [("user", task.request)]}
        result = await self.agent.ainvoke(said, config, context={"preferences": task.preferences})
        return str(result["messages"][-1].text)


_apps: dict[tuple[str, str], App] = {}


async def run(task: RoutingTask) -> str:
    """Run the app on a held-out task: what `--run` names."""
    key = os.environ[URL], os.environ[STORE]
    if key not in _apps:
        _apps[key] = App(*key)
    return await _apps[key](task)


def verify(task: RoutingTask, trace: Any, result: Any) -> bool:
    """Judge an answer: what `--verifier` names."""
    return answer_in(str(result)) == task.answer


@dataclass
class Traffic:
    """Users of the app: so many conversations at a time, each captured and judged, until there is enough.

    Attributes:
        app: Whom they ask.
        store: Captures.
        failed: What went wrong, conversation by conversation.
    """

    app: App
    store: TraceStore
    failed: list[str] = field(default_factory=list)

    async def one(self, task: RoutingTask, thread: str) -> None:
        """Have a conversation."""
        session = capture(self.store, app="words")
        try:
            async with session:
                answer = await self.app(task, thread)
        except Exception as error:
            self.failed.append(repr(error))
            return
        right = float(answer_in(answer) == task.answer)
        ids = dict.fromkeys(session.trace_ids)
        await asyncio.to_thread(self.store.add_rewards, *(Reward(one, {"outcome": right}, "exact") for one in ids))

    def serve(self, tasks: Iterable[RoutingTask], at_once: int = 8, stop: threading.Event | None = None) -> None:
        """Have a conversation about each task; end early when told so."""

        async def main() -> None:
            gate = asyncio.Semaphore(at_once)
            running: set[asyncio.Task[None]] = set()
            for number, task in enumerate(tasks):
                await gate.acquire()
                if stop is not None and stop.is_set():
                    break
                job = asyncio.create_task(self.one(task, f"{task.id} {number}"))
                running.add(job)
                job.add_done_callback(running.discard)
                job.add_done_callback(lambda job: gate.release())
            await asyncio.gather(*running)

        asyncio.run(main())

    @contextmanager
    def in_background(self, seed: str) -> Iterator[None]:
        """Let users come, one after the other without end, while the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self.serve, args=(words(100_000, seed), 6, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)


def build(folder: Path) -> Path:
    """Write a policy that hands any request to one of the three, each about as often; some seconds of a core."""
    view = Catalog(one.entry("http://127.0.0.1:1/v1") for one in CHOSEN).view()
    shown = words(200, "lessons")  # many, or it would know them by heart and trip over others
    calls = [f'<tool_call>\n{{"name": "{one.name}", "arguments": {{"final": true}}}}\n</tool_call>' for one in CHOSEN]
    system = system_prompt(None, SETTINGS["careful"], BUDGET, view)
    texts = [system + json.dumps(view.schemas()) + task.request + call for task in shown for call in calls]
    tokenizer: Any = train_tokenizer(texts, vocabulary=1600, length=1024)
    rows = []
    for task in shown:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": task.request}]
        prompt = tokenizer.apply_chat_template(
            messages, tools=view.schemas(), add_generation_prompt=True, return_dict=False
        )
        rows += [(prompt, tokenizer.encode(f"{call}<|im_end|>")) for call in calls]
    model = small_model(tokenizer, hidden=64, layers=2, length=1024)
    _teach(model, rows)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _teach(model: Any, rows: Sequence[tuple[list[int], list[int]]], steps: int = 80) -> None:
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.tensor([[*p, *a, *[0] * (width - len(p) - len(a))] for p, a in rows])
    labels = torch.tensor([[-100] * len(p) + [*a] + [-100] * (width - len(p) - len(a)) for p, a in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    order = random.Random(0)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 6e-3 * min(1.0, (step + 1) / 10, (steps - step) / 20)
        chosen = [3 * place + call for place in order.sample(range(len(rows) // 3), 4) for call in range(3)]
        logits = model(input_ids=ids[chosen]).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[chosen, 1:].flatten(), ignore_index=-100)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
