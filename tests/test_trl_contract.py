"""What training relies on in TRL, transformers and accelerate: a release that moves it fails here, and by name."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.routing_world import prompt_ids
from toolorch_rl.training.material import Material
from toolorch_rl.training.settings import TrainSettings
from toolorch_rl.training.trainers import arguments_of, policy_parts, trainer_of

pytestmark = pytest.mark.usefixtures("one_thread")


def trainer(router: Path, output: Path, method: str, rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Return a trainer, all weights trained, and the tokenizer."""
    settings = TrainSettings.of(
        {"policy": str(router), "output": output, "method": method, "lora_rank": None, "batch": 2, "micro_batch": 2}
    )
    base, tokenizer, _ = policy_parts(settings)
    return trainer_of(settings, Material(1, rows), arguments_of(settings), base, tokenizer), tokenizer


def test_the_release_is_the_one_that_was_read() -> None:
    assert version("trl").startswith("1.16."), "read TRL's trainers again, then change this and the range in pyproject"


@pytest.mark.parametrize(
    ("path", "name", "parameters"),
    [
        ("transformers.Trainer", "training_step", ["self", "model", "inputs", "num_items_in_batch"]),
        ("transformers.Trainer", "get_train_dataloader", ["self"]),
        ("transformers.Trainer", "_clip_grad_norm", ["self", "model"]),
        ("transformers.Trainer", "_save_checkpoint", ["self", "model", "trial"]),
        ("transformers.Trainer", "_get_output_dir", ["self", "trial"]),
        ("transformers.Trainer", "floating_point_ops", ["self", "inputs"]),
        ("transformers.Trainer", "compute_loss_context_manager", ["self"]),
        ("accelerate.Accelerator", "no_sync", ["self", "model"]),
        ("accelerate.state.GradientState", "_set_sync_gradients", ["self", "sync_gradients"]),
    ],
)
def test_hooks_are_where_they_were(path: str, name: str, parameters: list[str]) -> None:
    module, _, kind = path.rpartition(".")
    owner = getattr(__import__(module, fromlist=[kind]), kind)
    found = list(inspect.signature(getattr(owner, name)).parameters)
    assert found == parameters, f"{path}.{name} takes {found} now; toolorch_rl.training overrides or calls it"


def test_helpers_of_trl_are_where_they_were() -> None:
    from trl.models.utils import disable_gradient_checkpointing, prepare_deepspeed, prepare_fsdp
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer
    from trl.trainer.utils import use_adapter

    assert list(inspect.signature(use_adapter).parameters) == ["model", "adapter_name"]
    for helper in (prepare_deepspeed, prepare_fsdp, disable_gradient_checkpointing):
        assert callable(helper)
    for kind in (DPOTrainer, KTOTrainer):
        assert "_prepare_dataset" in vars(kind), f"{kind.__name__} renders text elsewhere now"
    for collator in (DataCollatorForPreference, DataCollatorForUnpairedPreference):
        assert "torch_call" in vars(collator)


def test_a_step_is_stopped_before_the_optimizer_and_the_hook_comes_before_the_checkpoint() -> None:
    from transformers import Trainer

    source = inspect.getsource(Trainer._run_epoch)
    places = [
        source.index(part)
        for part in (
            "self.training_step(",
            "self._clip_grad_norm(",
            "self.optimizer.step()",
            "callback_handler.on_step_end(",
            "self._maybe_log_save_evaluate(",
        )
    ]
    assert places == sorted(places), "the order within a step has changed: see Guarded and StepDone"


def test_supervised_loss_is_the_mean_over_labelled_tokens(router: Path, tmp_path: Path) -> None:
    _, tokenizer, _ = policy_parts(TrainSettings.of({"policy": str(router), "output": tmp_path}))
    prompt, answer = prompt_ids(tokenizer, "find"), tokenizer.encode("tokyo<|im_end|>")
    rows = [{"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}] * 2
    made, _ = trainer(router, tmp_path / "out", "sft", rows)

    batch = made.data_collator(rows)
    loss = made.compute_loss(made.model, dict(batch))

    assert batch["input_ids"].tolist() == [row["input_ids"] for row in rows]
    assert loss.item() == pytest.approx(-_logprobs(made.model, prompt, answer, None).mean().item(), rel=1e-4)


def test_dpo_sums_what_the_mask_marks(router: Path, tmp_path: Path) -> None:
    _, tokenizer, _ = policy_parts(TrainSettings.of({"policy": str(router), "output": tmp_path}))
    prompt = prompt_ids(tokenizer, "find")
    chosen, rejected = tokenizer.encode("tokyo and query<|im_end|>"), tokenizer.encode("search or answer<|im_end|>")
    masks = [[number % 2 for number, _ in enumerate(ids)] for ids in (chosen, rejected)]
    row = {
        "prompt_ids": prompt,
        "chosen_ids": chosen,
        "chosen_mask": masks[0],
        "rejected_ids": rejected,
        "rejected_mask": masks[1],
    }
    made, _ = trainer(router, tmp_path / "out", "dpo", [row, row])
    _move(made.model)

    loss = made.compute_loss(made.model, made.data_collator([row]))

    apart = [
        _logprobs(made.model, prompt, ids, mask).sum() - _logprobs(made.ref_model, prompt, ids, mask).sum()
        for ids, mask in zip((chosen, rejected), masks, strict=True)
    ]
    assert abs(float(apart[0] - apart[1])) > 0.1
    assert float(loss) == pytest.approx(-float(logsigmoid(0.1 * (apart[0] - apart[1]))), rel=1e-4)


def test_kto_sums_what_the_mask_marks_and_takes_the_divergence_from_mismatched_rows(
    router: Path, tmp_path: Path
) -> None:
    _, tokenizer, _ = policy_parts(TrainSettings.of({"policy": str(router), "output": tmp_path}))
    prompt = prompt_ids(tokenizer, "find")
    answers = [tokenizer.encode(f"{text}<|im_end|>") for text in ("tokyo and query", "search or answer")]
    masks = [[number % 2 for number, _ in enumerate(ids)] for ids in answers]
    rows = [
        {
            "prompt_ids": prompt,
            "completion_ids": answers[number],
            "mask": masks[number],
            "label": number == 0,
            "KL_completion_ids": answers[1 - number],
            "KL_mask": masks[1 - number],
        }
        for number in range(2)
    ]
    made, _ = trainer(router, tmp_path / "out", "kto", rows)
    _move(made.model)

    loss = made.compute_loss(made.model, made.data_collator(rows))

    good, bad = (
        _logprobs(made.model, prompt, ids, mask).sum() - _logprobs(made.ref_model, prompt, ids, mask).sum()
        for ids, mask in zip(answers, masks, strict=True)
    )
    middle = ((good + bad) / 2).clamp(min=0)
    wanted = ((1 - torch.sigmoid(0.1 * (good - middle))) + (1 - torch.sigmoid(0.1 * (middle - bad)))) / 2
    assert float(loss) == pytest.approx(float(wanted), rel=1e-4)


def _move(model: Any) -> None:
    """Make a policy differ from the one that it began as."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.02


def _logprobs(model: Any, prompt: list[int], answer: list[int], mask: list[int] | None) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    found = logits.float().log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    return found if mask is None else found * torch.tensor(mask)
