"""Rewards into the trace store."""

from __future__ import annotations

from toolorch_integrations.plain import content_hash
from toolorch_integrations.store import TraceStore
from toolorch_integrations.trace import Reward
from toolorch_rl.rewards.equations import Rewards


def attach(store: TraceStore, rewards: Rewards, verifier: str) -> list[Reward]:
    """Write the reward vector of each run to its trace; attaching again replaces what the same verifier gave.

    The values are the outcome (1 or 0) and the normalised features, not weighed: `cost`, `latency`, and `calls:NAME`
    for each tool that any run of the group called. Features that are absent or constant in a run's group are 0.

    Args:
        store: Where the traces are.
        rewards: What to write.
        verifier: Who said what counts as solved.

    Raises:
        StoreError: A trace is not in the store; nothing was written.
    """
    called: dict[int, set[str]] = {}
    for run, group in zip(rewards.runs, rewards.groups.tolist(), strict=True):
        called.setdefault(group, set()).update(run.calls)
    column = {name: number for number, name in enumerate(rewards.tools)}
    entries = []
    for run, group, vector in zip(rewards.runs, rewards.groups.tolist(), rewards.vectors.tolist(), strict=True):
        values = {"outcome": float(run.solved), "cost": vector[-2], "latency": vector[-1]}
        values |= {f"calls:{name}": vector[column[name]] for name in sorted(called[group])}
        entries.append(Reward(run.run, values, verifier, id=content_hash([run.run, verifier])))
    store.add_rewards(*entries)
    return entries
