"""Which tasks of BFCL and tau2-bench their own golden calls solve: replayed plainly, and through both faces.

    python benchmarks/imported_tasks.py --faces 40
    python benchmarks/imported_tasks.py --tau2 CHECKOUT --domain retail --domain mock

The bar is 100 %; every task that is left out or not solved is listed with the reason. BFCL's package is installed into
a temporary folder where it is not there (`bfcl-eval`, without what it needs for other things); tau2-bench needs a
checkout and an environment that holds its requirements.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, get_args

from toolorch_rl.imports import ImportedTask, LeftOut, bfcl_tasks, replay_imported, tau2_tasks
from toolorch_rl.imports.bfcl import Category


async def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faces", type=int, default=40, help="tasks of each set that also run through both faces")
    parser.add_argument("--tau2", help="checkout of tau2-bench; without it, BFCL is replayed")
    parser.add_argument("--domain", action="append", default=[], help="of tau2-bench")
    given = parser.parse_args()
    if given.tau2:
        for domain in given.domain or ["retail"]:
            await report(f"tau2 {domain}", tau2_tasks(domain, given.tau2), given.faces)
        return
    with tempfile.TemporaryDirectory() as folder:
        if find_spec("bfcl_eval") is None:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "bfcl-eval"]
            await asyncio.to_thread(subprocess.run, install, check=True)
        for category in get_args(Category):
            checkout = None if find_spec("bfcl_eval") else folder
            await report(f"bfcl {category}", bfcl_tasks(category, checkout), given.faces)


async def report(name: str, found: Iterable[ImportedTask | LeftOut], faces: int) -> None:
    """Replay the tasks of a set and print what came of it."""
    started = time.perf_counter()
    tasks, left_out = [], []
    for item in found:
        (tasks if isinstance(item, ImportedTask) else left_out).append(item)
    replayed = {task.id: replay_imported(task) for task in tasks}
    solved = sum(entry.solved for entry in replayed.values())
    trivial = sum(entry.trivial for entry in replayed.values())
    seconds = time.perf_counter() - started
    print(f"{name:<20} replayed: {solved} of {len(tasks)} solved, {len(left_out)} left out, {seconds:.1f} s")
    print(f"{'':<20} solved by doing nothing, so of no use to train on: {trivial}")
    for item in left_out:
        print(f"{'':<20} left out: {item.id}: {item.reason}")
    for task_id, entry in replayed.items():
        if not entry.solved:
            print(f"{'':<20} not solved: {task_id}: {entry.reason}")
    if faces:
        sample = [task for task in tasks if replayed[task.id].solved]
        sample = sample[:: max(1, len(sample) // faces)][:faces]
        for face in ("langgraph", "llamaindex"):
            wrong = await through(face, sample)
            print(f"{'':<20} through {face}: {len(sample) - len(wrong)} of {len(sample)} solved")
            for task_id, reason in wrong:
                print(f"{'':<20} not solved through {face}: {task_id}: {reason}")


async def through(face: str, tasks: list[Any]) -> list[tuple[str, str]]:
    """Run tasks through a face with a policy that makes the golden calls; return those that are not solved."""
    from toolorch_integrations.entry import Endpoint
    from toolorch_integrations.testing import Reply, ScriptedPolicy
    from toolorch_rl.evaluation.faces import face as face_of
    from toolorch_rl.evaluation.policy_at import PolicyAt

    script: list[Reply | str] = []
    wrong = []
    with ScriptedPolicy(lambda request: script.pop(0), exact=False) as policy:
        runner = face_of(face, PolicyAt(Endpoint(url=policy.url, model="scripted"), exact=False))
        for task in tasks:
            script[:] = [
                step
                for stage in task.stages
                for step in (
                    *(Reply(calls=[(call.name, call.arguments)]) for call in stage.golden),
                    task.answer or "Ok.",
                )
            ]
            with task.open() as environment:
                answer = await runner.answer(task, environment)
                verdict = task.judge(environment, answer)
            if not verdict.passed:
                wrong.append((task.id, verdict.reason))
    return wrong


if __name__ == "__main__":
    asyncio.run(main())
