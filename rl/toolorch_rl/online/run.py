"""Online training from beginning to end: rollouts, trainer and policy server put together."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolorch_integrations.store import TraceStore
from toolorch_rl.online.publishing import WeightStream, refuse_several_processes
from toolorch_rl.online.settings import OnlineSettings
from toolorch_rl.online.source import RolloutSource
from toolorch_rl.rewards import Preset, Rewards
from toolorch_rl.rollouts import Forks, Group, PolicyServer, RolloutError
from toolorch_rl.rollouts.attempt import App
from toolorch_rl.rollouts.plan import Verify
from toolorch_rl.rollouts.server import Restartable
from toolorch_rl.training import Method, TrainResult, TrainSettings, train
from toolorch_rl.weights import LoraPublisher, Probe, ReloadPublisher


def train_online(
    app: App | Forks,
    tasks: Sequence[Any] | Callable[[int], Iterator[Any]],
    verify: Verify,
    *,
    server: Restartable | str,
    online: OnlineSettings | None = None,
    store: TraceStore | None = None,
    versions: Path | None = None,
    probe: Probe | None = None,
    ended: Callable[[Sequence[Group], Rewards], None] | None = None,
    settings: TrainSettings | None = None,
    **values: Any,
) -> TrainResult:
    """Train a policy on rollouts of the user's own app, which go on while it trains.

    The app asks its policy as ever; which version answers is set around each run. The server has to serve the policy
    that is trained. With an adapter (`lora_rank`) each version is served under a name of its own; without, all weights
    are reloaded.

    Args:
        app: Runs the app on a task: a coroutine function, or a plain one.
        tasks: See `RolloutSource`.
        verify: `verify(task, trace, result)` says whether a run solved its task.
        server: The policy's server; one that this process has started is started again when it dies.
        online: How runs are made and chosen. `preferences`, `preset` and `filters` may stand here or in `settings`.
        store: Where traces are kept as well.
        versions: Where published versions are saved; by default a temporary folder. Those that the server needs no
            more are removed, and nothing else that lies there.
        probe: Proves each version; by default random ids of the policy's vocabulary.
        ended: See `RolloutSource`.
        settings: How to train; or give the fields of `TrainSettings` as keywords. `steps` is needed.
        **values: Fields of `TrainSettings`.

    Raises:
        TrainingError: See `training.train`.
        RolloutError: Rollouts cannot go on, or there is more than one training process.
        WeightsError: The server does not serve the policy, or takes no weights.

    Example:
        >>> with VllmServer("models/policy", lora=True, dtype="float32") as server:  # doctest: +SKIP
        ...     train_online(app, tasks, verify, server=server, policy="models/policy", output="adapters/v2", steps=100)
    """
    refuse_several_processes()
    chosen = settings or TrainSettings.of({"method": Method.ONLINE, **values})
    if settings is not None and values:
        raise RolloutError("give `settings` or keywords, not both")
    config = _config(chosen.policy)
    vocabulary = int(config.get_text_config().vocab_size)
    probe = probe or Probe.random(vocabulary, prompts=2, length=32)
    online = (online or OnlineSettings()).agreed(chosen)
    online = replace(online, vocabulary=vocabulary, max_length=chosen.max_length or online.max_length)
    chosen = by_preset(chosen, online.preset)
    url, name = _address(server, chosen.policy)
    lora = chosen.lora_rank is not None
    publisher = (
        LoraPublisher(url, name, probe=probe, folder=chosen.policy, max_staleness=online.max_staleness)
        if lora
        else ReloadPublisher(url, name, chosen.policy, probe=probe)
    )
    with publisher:
        if isinstance(publisher, ReloadPublisher) and getattr(server, "model", chosen.policy) != chosen.policy:
            publisher.publish(f"start-{time.time_ns()}", chosen.policy)  # the server was started on another folder
        source = RolloutSource(
            app,
            tasks,
            verify,
            online,
            weights=WeightStream(
                publisher,
                versions,
                keep=online.max_staleness + 2 if lora else 2,  # all adapters that may be asked, or the newest reload
                mark=f"-{secrets.token_hex(2)}",
                training=chosen.output,
            ),
            server=PolicyServer(server),
            store=store,
            ended=ended,
        )
        try:
            return train(chosen, source=source)
        finally:
            source.close()


def by_preset(settings: TrainSettings, preset: Preset) -> TrainSettings:
    """Return how to train, with a preset's clip and divergence where the settings say nothing of their own."""
    unset = [name for name in ("clip_low", "clip_high", "kl") if getattr(settings, name) is None]
    return settings.model_copy(update={name: getattr(preset, name) for name in unset})


def _config(policy: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(policy)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RolloutError(f"policy {policy!r} cannot be read: {reason}. Give the folder of the bare policy") from error


def _address(server: Restartable | str, policy: str) -> tuple[str, str]:
    if isinstance(server, str):
        return server, Path(policy).resolve().name if Path(policy).is_dir() else policy
    return server.root_url, str(getattr(server, "name", Path(policy).name))
