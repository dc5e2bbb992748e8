"""Cost-aware routing with a fixed catalogue: a policy learns by experience what each specialist is good for.

    python -m benchmarks.routing_fixed [--engine vllm|embedded] [--minutes 20] [--seeds 0] [--capture 640]

The world is `examples/routing`: eight kinds of requests and six specialists, of which the policy knows names and
prices. It begins with valid calls and random choices; see `routing_rounds.py` for what comes then. `--gradient` trains
by the policy gradient on the same captured runs as well, outside of the minutes.

Bars: solved at least as often as always-strongest at 30 % of its dollars, 95 % of the best possible reward; `replay`
alone recovers half of the gap between random routing and that; no baseline dominates a setting's point in solved,
dollars and seconds.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.routing_rounds import World, arguments, run
from examples.routing.base_policy import make
from examples.routing.requests import tasks


def _base(folder: Path, seed: int) -> Path:
    return make(folder, seed=seed)


WORLD = World(
    base=_base,
    training=tasks,
    held_out=lambda count, setting: tasks(count, "held out", (setting,)),
    reply_tokens=40,
)

if __name__ == "__main__":
    run(WORLD, arguments(__doc__, ".toolorch/fixed", minutes=20, capture=640))
