"""The trainer of policy gradients: TRL's supervised trainer with another loss, fed by a source of examples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list  # type: ignore[import-untyped]
from trl.models.utils import disable_gradient_checkpointing, prepare_deepspeed, prepare_fsdp
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import use_adapter

from toolorch_rl.packing import set_attention
from toolorch_rl.packing.forward import logprobs_of
from toolorch_rl.rows import Example
from toolorch_rl.training.checkpoints import Guarded
from toolorch_rl.training.forward import tokens_of
from toolorch_rl.training.loss import LossSettings, policy_loss
from toolorch_rl.training.shares import Share, shares_of
from toolorch_rl.training.source import ExampleSource

REFERENCE = "ref"
"""Name of the adapter that training began with, as TRL's DPO trainer calls it."""

_MEANS = ("ratio", "clipped", "truncated", "entropy", "surrogate", "behaviour_kl", "kl")


class PolicyTrainer(Guarded, SFTTrainer):
    """Trains on the examples of a source, a batch a step.

    From TRL come the model's preparation (adapters, precision, sharding), the optimiser, the log and the checkpoints.
    The data loader and the loss are ours: see `policy_loss`.
    """

    _tag_names = ["toolorch"]
    _name = "policy gradient"

    def __init__(
        self,
        *args: Any,
        source: ExampleSource,
        loss: LossSettings,
        token_budget: int,
        policy_version: str,
        reference: torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Take what `SFTTrainer` takes, and where the examples come from.

        Args:
            *args: For `SFTTrainer`.
            source: Gives the examples.
            loss: How the loss is computed.
            token_budget: Most tokens that a device forwards at a time.
            policy_version: Name of the policy before the first step.
            reference: The policy that training began with, where the loss has a divergence from it and there is no
                adapter to switch off.
            **kwargs: For `SFTTrainer`.
        """
        super().__init__(*args, **kwargs)
        prepared: Any = self.model
        set_attention(prepared)
        self.source = source
        self.loss_settings = loss
        self.token_budget = token_budget
        self.policy_version = policy_version
        self.reference = None if reference is None else self._prepared(reference)

    def get_train_dataloader(self) -> Any:
        """Return the source's batches, from the step that comes next on."""
        return _Batches(self)

    def next_batch(self) -> list[Example]:
        """Return the next step's examples, the same in every process."""
        box: list[Any] = [None]
        if self.accelerator.is_main_process:
            box = [self.source.next_batch(self.state.global_step, self.policy_version)]
        broadcast_object_list(box)
        examples: list[Example] = box[0]
        return examples

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Make a step's gradients, share by share."""
        model.train()
        examples: list[Example] = inputs["examples"]
        processes = self.accelerator.num_processes
        shares = shares_of(examples, self.token_budget, processes)[self.accelerator.process_index]
        rollouts = sum(float(example.weights.sum()) for example in examples)
        total: torch.Tensor = torch.zeros((), device=self.accelerator.device)
        sums: dict[str, torch.Tensor] = {}
        for place, share in enumerate(shares):
            with self._synchronised(model, last=place + 1 == len(shares)):
                with self.compute_loss_context_manager():
                    loss, figures = self._share_loss(model, share)
                # Each process holds its own part of one sum, and gradients are averaged over processes.
                loss = loss / rollouts
                self.check_finite("loss", loss.detach())
                self.accelerator.backward(loss * processes, **self._backward_options())
            total += loss.detach()
            for name, value in figures.items():
                known = sums.get(name, torch.zeros_like(value))
                sums[name] = torch.maximum(known, value) if name == "ratio_max" else known + value
        self._note(sums, len({example.row.trace_id for example in examples}))
        # The trainer logs the mean over processes.
        mean: torch.Tensor = total * processes
        return mean

    def _share_loss(self, model: Any, share: Share) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        settings = self.loss_settings
        reference = None
        if settings.kl:
            with torch.no_grad(), self._reference_of(model) as frozen:
                reference = logprobs_of(frozen, share.packed, share.terms).logprobs
        tokens = tokens_of(model, share, reference=reference)
        return policy_loss(tokens, settings)

    @contextlib.contextmanager
    def _reference_of(self, model: Any) -> Iterator[Any]:
        """Give the model that the divergence is measured from."""
        if self.reference is not None:
            yield self.reference
            return
        bare = self.accelerator.unwrap_model(model)
        name = REFERENCE if REFERENCE in bare.peft_config else None
        options: Any = self.args.gradient_checkpointing_kwargs
        with disable_gradient_checkpointing(bare, options), use_adapter(bare, name):
            yield model

    @contextlib.contextmanager
    def _synchronised(self, model: Any, *, last: bool) -> Iterator[None]:
        """Exchange gradients among processes with the last share only."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        deepspeed = self.accelerator.distributed_type is DistributedType.DEEPSPEED
        with contextlib.nullcontext() if last or deepspeed else self.accelerator.no_sync(model):
            yield

    def _backward_options(self) -> dict[str, Any]:
        return {"scale_wrt_gas": False} if self.accelerator.distributed_type is DistributedType.DEEPSPEED else {}

    def _note(self, sums: dict[str, torch.Tensor], rollouts: int) -> None:
        """Keep a step's figures for the log: means over rollouts of all processes."""
        greatest = self.accelerator.gather(sums.pop("ratio_max").reshape(1)).max().item()
        names = sorted(sums)
        gathered = self.accelerator.reduce(torch.stack([sums[name].float() for name in names]), "sum").tolist()
        found = dict(zip(names, gathered, strict=True))
        weight = found["weight"] or 1.0
        figures = {name: found[name] / weight for name in _MEANS if name in found}
        figures |= {"ratio_max": greatest, "trained_tokens": found["tokens"], "rollouts": float(rollouts)}
        if self.accelerator.is_main_process:
            figures |= self.source.metrics()
        for name, value in figures.items():
            self._metrics["train"][name].append(value)

    def after_step(self) -> None:
        """Tell the source that a step is done; it may publish the weights."""
        if self.accelerator.is_main_process or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            model = self.accelerator.unwrap_model(self.model)
            self.policy_version = self.source.after_step(self.state.global_step - 1, model) or self.policy_version

    def extra_state(self) -> dict[str, Any]:
        """Return the source's position and the policy's name."""
        return {"policy_version": self.policy_version, "source": self.source.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `extra_state` gave."""
        self.policy_version = state["policy_version"]
        if self.accelerator.is_main_process:
            self.source.restore(state["source"])

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: the count of the base class knows no packed rows."""
        return 0

    def _prepared(self, model: torch.nn.Module) -> Any:
        model.requires_grad_(False)
        set_attention(model)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(model, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(model, self.accelerator)
        return self.accelerator.prepare_model(model, evaluation_mode=True)


@dataclass
class _Batches:
    """The data loader of a `PolicyTrainer`: one batch a step, asked for when the step begins and not before."""

    trainer: PolicyTrainer

    def __len__(self) -> int:
        return int(self.trainer.args.max_steps)

    def __iter__(self) -> Iterator[dict[str, list[Example]]]:
        while self.trainer.state.global_step < len(self):
            batch = self.trainer.next_batch()
            if not batch:
                return
            yield {"examples": batch}
