"""How many verified tasks a second one core makes from templates.

    python benchmarks/synthesis_templates.py [count]

The time is the processor's, so that other work on the machine does not count; the wall clock stands beside it. The bar
is 500 verified tasks a second a core. The check alone, the writing as JSON and the rendering as conversations are timed
on the same tasks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from toolorch_rl.environments import Environment
from toolorch_rl.replay import verify
from toolorch_rl.synthesis import conversation, domains, synthesize

BAR = 500.0


def timed(title: str, work: Callable[[], Iterable[Any]]) -> tuple[list[Any], float]:
    """Do the work, print its rates, and return what it gave and the rate by processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    made = list(work())
    by_wall, by_processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{title:<22}{len(made) / by_processor:>10,.0f} /s of a core{len(made) / by_wall:>10,.0f} /s by wall clock")
    return made, len(made) / by_processor


def main() -> None:
    """Print the rates, and the ratio to the bar."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    environments = {name: Environment(domain.schema) for name, domain in domains().items()}
    list(synthesize(seed=1, count=24))  # imports, schemas and caches
    tasks, rate = timed("made and verified", lambda: synthesize(seed=0, count=count))
    timed("verified again", lambda: [verify(task, environments[task.domain]) for task in tasks])
    timed("as tasks (JSON)", lambda: [task.to_json() for task in tasks])
    timed("as conversations", lambda: [json.dumps(conversation(task, environments[task.domain])) for task in tasks])
    print(
        f"{len(tasks)} tasks of {len(environments)} domains; {rate / BAR:.2f} of the bar of {BAR:.0f} a second a core"
    )


if __name__ == "__main__":
    main()
