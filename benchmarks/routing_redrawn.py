"""Cost-aware routing where each request has specialists of its own: names, prices, seconds and skills drawn anew.

    python -m benchmarks.routing_redrawn [--engine vllm|embedded] [--minutes 60] [--seeds 0 1 2] [--base FOLDER]

The world is `examples/routing/redrawn.py`: what each specialist is good at stands in its description. The policy begins
as one that reads the catalogue and chooses by chance (`python -m examples.routing.redrawn_policy`); what to make of
what it has read it learns as `routing_rounds.py` says. Held-out requests show names and prices that neither the
supervised runs nor the rounds have shown.

The bars are those of `routing_fixed.py`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.routing_rounds import World, arguments, run
from examples.routing.redrawn import redrawn_tasks
from examples.routing.redrawn_policy import make


def _base(folder: Path, seed: int) -> Path:
    return make(folder, seed=seed)


WORLD = World(
    base=_base,
    training=redrawn_tasks,
    held_out=lambda count, setting: redrawn_tasks(count, "held out", (setting,), unseen=True),
    reply_tokens=400,
)

if __name__ == "__main__":
    run(WORLD, arguments(__doc__, ".toolorch/redrawn", minutes=60, capture=768))
