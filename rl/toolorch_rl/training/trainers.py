"""From settings and material to one of TRL's trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.kto_config import KTOConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from toolorch_rl.training.checkpoints import Guarded
from toolorch_rl.training.errors import TrainingError
from toolorch_rl.training.loss import LossSettings
from toolorch_rl.training.material import Material
from toolorch_rl.training.plan import CHECKPOINTS
from toolorch_rl.training.policy_trainer import REFERENCE, PolicyTrainer
from toolorch_rl.training.preference_trainers import ExactDPOTrainer, ExactKTOTrainer, LabelledCollator, PairCollator
from toolorch_rl.training.progress import Progress, StepDone, TasksNoted
from toolorch_rl.training.result import METRICS_FILE
from toolorch_rl.training.settings import Method, TrainSettings

ADAPTER_FILE = "adapter_config.json"


class SupervisedTrainer(Guarded, SFTTrainer):
    """TRL's supervised trainer."""

    _tag_names = ["toolorch", "sft"]


def policy_parts(settings: TrainSettings) -> tuple[str, Any, Any]:
    """Return the folder or name of the policy's model, its tokenizer and its configuration.

    Raises:
        TrainingError: There is no policy there.
    """
    folder = Path(settings.policy)
    base = settings.policy
    if not folder.is_dir() and (folder.is_absolute() or base.startswith(".") or base.count("/") > 1):
        raise TrainingError(f"policy: there is no folder {base}")
    try:
        if (folder / ADAPTER_FILE).is_file():
            base = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
        has_tokenizer = any(folder.glob("tokenizer*")) or not folder.is_dir()
        tokenizer = AutoTokenizer.from_pretrained(settings.policy if has_tokenizer else base)
        return base, tokenizer, AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"policy {settings.policy!r} cannot be loaded: {reason}") from error


def arguments_of(settings: TrainSettings) -> Any:
    """Return the arguments of TRL's trainer; making them joins the group of processes, where there is one.

    Raises:
        TrainingError: `report_to` names something that is not installed, or batches do not divide.
    """
    installed: list[str] = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    for name in settings.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(map(str, INTEGRATION_TO_CALLBACK)))
            raise TrainingError(f"report_to: there is nothing called {name!r}; transformers knows {known}")
        if name not in installed:
            raise TrainingError(f"report_to: {name} is not installed; `pip install {name}`")
    device = torch.cuda.is_available()
    half = settings.dtype == "bfloat16" or (settings.dtype == "auto" and device and torch.cuda.is_bf16_supported())
    kind = {Method.DPO: DPOConfig, Method.KTO: KTOConfig}.get(settings.method, SFTConfig)
    checkpointing = device if settings.gradient_checkpointing is None else settings.gradient_checkpointing
    options: dict[str, Any] = {}
    if settings.method in (Method.DPO, Method.KTO):
        options["beta"] = settings.beta
    if settings.method is Method.KTO:
        options["train_sampling_strategy"] = "sequential"  # its divergence goes by what stands in a batch
    if settings.method in (Method.REPLAY, Method.ONLINE):
        # The source goes by the step, so nothing has to be skipped; the random state is restored all the same.
        options |= {"ignore_data_skip": True, "dataset_kwargs": {"skip_prepare_dataset": True}}
    arguments = kind(
        output_dir=str(settings.output / CHECKPOINTS),
        per_device_train_batch_size=1,  # below, once the number of processes is known
        max_steps=settings.steps or 1,
        learning_rate=settings.rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=half,
        gradient_checkpointing=checkpointing,
        save_strategy="steps",
        save_steps=settings.save_every,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        report_to=list(settings.report_to) or "none",
        run_name=settings.run_name,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        max_length=None,
        use_cpu=not device,
        **options,
    )
    if settings.method in (Method.SFT, Method.DPO, Method.KTO):
        # One process that sees several GPUs gives each of them a micro-batch.
        size, number = micro_batches(settings, arguments.world_size * max(1, arguments.n_gpu))
        arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps = size, number
    return arguments


def micro_batches(settings: TrainSettings, devices: int) -> tuple[int, int]:
    """Return how many rows a device takes at a time, and how many times in a step, so that a step has `batch` rows.

    Raises:
        TrainingError: `batch` does not divide so.
    """
    share, rest = divmod(settings.batch, devices)
    size = min(settings.micro_batch, share)
    least = 2 if settings.method is Method.KTO else 1  # its divergence goes by what stands in a micro-batch
    if rest or size < least or share % size:
        among = "1 process" if devices == 1 else f"{devices} processes or GPUs"
        raise TrainingError(
            f"batch: {settings.batch} rows a step do not divide among {among} with micro_batch {settings.micro_batch}"
            f"{' (kto: 2 rows or more each)' if least == 2 else ''}; make it a multiple of "
            f"{devices * settings.micro_batch}, or choose a smaller micro_batch"
        )
    return size, share // size


def trainer_of(settings: TrainSettings, material: Material, arguments: Any, base: str, tokenizer: Any) -> Any:
    """Return the trainer.

    Args:
        settings: Method and model.
        material: What it trains on.
        arguments: From `arguments_of`.
        base: The policy's model.
        tokenizer: The policy's.
    """
    arguments.max_steps = material.steps
    common: dict[str, Any] = {
        "args": arguments,
        "processing_class": tokenizer,
        "callbacks": [Progress(settings.output / METRICS_FILE)],
    }
    common |= _model_and_adapter(settings, arguments, base)
    if settings.method in (Method.REPLAY, Method.ONLINE):
        assert material.source is not None
        kl = settings.kl_weight
        anchored = kl > 0 and settings.lora_rank is None  # an adapter's own model stands for it
        trainer: Any = PolicyTrainer(
            train_dataset=Dataset.from_dict({"input_ids": [[0, 0]], "labels": [[-100, 0]]}),  # never read
            source=material.source,
            loss=LossSettings(*settings.clip, settings.truncate, settings.entropy, kl, settings.regression),
            token_budget=settings.token_budget,
            policy_version=Path(settings.policy).name,
            reference=_model(base, frozen=arguments.bf16) if anchored else None,
            **common,
        )
        trainer.add_callback(TasksNoted(material.source, settings.output))
        trainer.add_callback(StepDone(trainer))
    else:
        data = Dataset.from_list(material.rows)
        if settings.method is Method.SFT:
            trainer = SupervisedTrainer(train_dataset=data, **common)
        else:
            makers: dict[Method, tuple[Any, Any]] = {
                Method.DPO: (ExactDPOTrainer, PairCollator),
                Method.KTO: (ExactKTOTrainer, LabelledCollator),
            }
            make, collator = makers[settings.method]
            pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            trainer = make(train_dataset=data, data_collator=collator(pad_token_id=pad), **common)
    trainer.keep = settings.keep
    trainer.remove_callback(PrinterCallback)
    return trainer


def _model_and_adapter(settings: TrainSettings, arguments: Any, base: str) -> dict[str, Any]:
    """Return the model, and the configuration of a new adapter or None."""
    if base != settings.policy:
        if settings.lora_rank is None:
            raise TrainingError(
                "policy is an adapter, and lora_rank is off: merge it into its model to train all weights"
            )
        return {"model": _with_adapter(settings, arguments, base)}
    if settings.lora_rank is None:
        return {"model": _model(base)}
    from peft import LoraConfig

    adapter = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    return {"model": _model(base, frozen=arguments.bf16), "peft_config": adapter}


def _model(base: str, *, frozen: bool = False) -> Any:
    """Load a model: in float32, which small steps of training need, or if it stays as it is in bfloat16."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16 if frozen else torch.float32)
    return model


def _with_adapter(settings: TrainSettings, arguments: Any, base: str) -> Any:
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(_model(base, frozen=arguments.bf16), settings.policy, is_trainable=True)
    if settings.method in (Method.REPLAY, Method.ONLINE) and settings.kl_weight:
        model.load_adapter(settings.policy, adapter_name=REFERENCE)
        model.set_adapter("default")
    return model
