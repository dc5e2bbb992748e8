"""A real vLLM as a policy server: found, started with the right flags, watched, and ended without leftovers.

The flags are those that exact capture needs: tool calls parsed, log-probabilities of the distribution that was really
sampled, and, when asked for, LoRA adapters that can be swapped while it serves.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from toolorch_serving.process import PolicyServerError, ServerProcess
from toolorch_serving.vllm_release import CPU, GPU, UNFIT_ON_CPU, has_gpu

VARIABLE = "TOOLORCH_VLLM_PYTHON"
"""Environment variable that names the interpreter of an environment with vLLM."""
_FOLDER = Path(".venv-vllm") / "bin" / "python"
_UNFIT = " ".join(UNFIT_ON_CPU)
_CAUSES = (
    (
        "torchvision::nms does not exist",
        "torchvision does not fit this torch, and text models need neither it nor its kin: "
        f"{{python}} -m pip uninstall -y {_UNFIT}",
    ),
    (
        "signal sigill",
        "this processor lacks instructions (AVX-512 or AVX2) that the vLLM build uses: "
        "serve with the embedded engine (--engine embedded)",
    ),
    (
        "no available memory for the cache blocks",
        "there is no room for the key-value cache: lower max_model_len, or set VLLM_CPU_KVCACHE_SPACE (GiB)",
    ),
    (
        "is larger than the available kv cache memory",
        "max_model_len does not fit the key-value cache: lower it, or set VLLM_CPU_KVCACHE_SPACE (GiB)",
    ),
    (
        "are not supported for now",
        "this vLLM does not know the model's architecture: use a newer vLLM, or the embedded engine "
        "(--engine embedded) if transformers knows it",
    ),
    (
        "does not recognize this architecture",
        "the transformers of the vLLM environment does not know the model's architecture: update it there",
    ),
    (
        "default chat template is no longer allowed",
        "the model has no chat template: add chat_template.jinja to its folder, or pass --chat-template FILE",
    ),
    ("unrecognized arguments", "this vLLM does not know one of the flags: see the last line of the log"),
    (
        "invalid repository id or local directory",
        "MODEL must be a folder with config.json, weights and tokenizer, or a name on the hub",
    ),
    (
        "is not a local folder and is not a valid model identifier",
        "MODEL must be a folder with config.json, weights and tokenizer, or a name on the hub",
    ),
)


class VllmServer(ServerProcess):
    """Serves a policy with vLLM. A context manager, plain or asynchronous.

    Example:
        >>> with VllmServer("policies/demo") as server:  # doctest: +SKIP
        ...     httpx.get(f"{server.url}/models")
    """

    engine: ClassVar[str] = "vllm"

    def __init__(
        self,
        model: str | Path,
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        python: str | Path | None = None,
        max_model_len: int | None = None,
        dtype: str = "auto",
        tool_call_parser: str = "hermes",
        reasoning_parser: str | None = None,
        lora: bool = False,
        adapters: Mapping[str, str | Path] | None = None,
        max_loras: int = 4,
        max_lora_rank: int = 64,
        training: bool = False,
        weight_transfer: str | None = None,
        extra_args: Sequence[str] = (),
        startup_timeout: float = 600,
        log_path: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        """Prepare the server.

        Args:
            model: Folder or hub name of the policy.
            name: Name to serve it under; by default the folder's own name.
            host: Address to listen on.
            port: Port to listen on; 0 takes a free one.
            python: Interpreter of the environment that holds vLLM; by default it is looked for.
            max_model_len: Longest prompt plus answer in tokens; by default the model's own limit.
            dtype: vLLM's --dtype. float32 on a CPU gives the log-probabilities that training will compute.
            tool_call_parser: How the policy writes tool calls.
            reasoning_parser: qwen3 if every answer begins with reasoning. An answer without it then counts as
                reasoning as a whole, so leave it out for policies that do not think.
            lora: Whether adapters can be loaded while it serves.
            adapters: LoRA adapters to load at the start, folder by name; implies `lora`.
            max_loras: Most adapters in one batch.
            max_lora_rank: Largest rank of an adapter.
            training: Whether to serve what training needs: tokens in and tokens out, pause and resume, weights
                reloaded in place. Whoever reaches the port can then change the weights, so keep it to loopback or a
                private network.
            weight_transfer: vLLM's backend for weights sent from GPU to GPU (nccl, ipc); implies `training`.
            extra_args: Further flags for vLLM, as they are.
            startup_timeout: Seconds that loading may take.
            log_path: Where the log goes; by default a new file in the temporary folder.
            progress: Whether to show on standard error what the start is doing.

        Raises:
            PolicyServerError: No environment with vLLM was found; the message says how to install one.
        """
        super().__init__(
            str(model),
            name=name,
            host=host,
            port=port,
            startup_timeout=startup_timeout,
            log_path=log_path,
            progress=progress,
        )
        self.python = find_vllm(python)
        self._on_cpu = not has_gpu()
        self._lora = lora or bool(adapters)
        self._training = training or weight_transfer is not None
        flags: dict[str, object] = {
            "--max-model-len": max_model_len,
            "--dtype": dtype,
            "--tool-call-parser": tool_call_parser,
            "--reasoning-parser": reasoning_parser,
            "--logprobs-mode": "processed_logprobs",
            # Not the model folder's sampling defaults: what a request does not say is neutral, as its trace has it.
            "--generation-config": "vllm",
        }
        if self._lora:
            flags |= {"--max-loras": max_loras, "--max-lora-rank": max_lora_rank}
        self._arguments = ["--enable-auto-tool-choice"]
        for flag, value in flags.items():
            self._arguments += [flag, str(value)] if value is not None else []
        if self._on_cpu:
            self._arguments.append("--enforce-eager")
        if self._lora:
            self._arguments.append("--enable-lora")
        if self._training:
            self._arguments.append("--enable-scale-out")
        if weight_transfer is not None:
            self._arguments += ["--weight-transfer-config", json.dumps({"backend": weight_transfer})]
        if adapters:
            self._arguments += ["--lora-modules", *(f"{key}={path}" for key, path in adapters.items())]
        self._arguments += extra_args

    def command(self) -> list[str]:
        """Return the command that serves on `self.port`."""
        # The module, not the `vllm` script: the script asks for a distribution named vllm, and the CPU build has
        # another name.
        command = [str(self.python), "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        command += ["--served-model-name", self.name, "--host", self.host, "--port", str(self.port)]
        return command + self._arguments

    def environment(self) -> dict[str, str]:
        """Return the additions to the command's environment; what the caller has set stays."""
        wanted = {"VLLM_NO_USAGE_STATS": "1"}
        if Path(self.model).is_dir():
            wanted["HF_HUB_OFFLINE"] = "1"
        if self._lora:
            wanted["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        if self._training:
            wanted["VLLM_SERVER_DEV_MODE"] = "1"
        if self._on_cpu:
            wanted |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1"}
        return {key: os.environ.get(key, value) for key, value in wanted.items()}

    def advice(self, log: str) -> str | None:
        """Return what to do about a cause of failure that is known from `log`, or None."""
        lower = log.lower()
        for sign, advice in _CAUSES:
            if sign in lower:
                return advice.format(python=self.python)
        return super().advice(log)


def find_vllm(python: str | Path | None = None) -> Path:
    """Return the interpreter of an environment that holds vLLM.

    Looked for in this order: `python`, the variable TOOLORCH_VLLM_PYTHON, `.venv-vllm` in the current folder and in
    the checkout that this file belongs to, this interpreter's own packages.

    Raises:
        PolicyServerError: None was found, or the one that was named does not exist.
    """
    for name, given in (("python", python), (VARIABLE, os.environ.get(VARIABLE))):
        if given:
            if not os.access(given, os.X_OK):
                raise PolicyServerError(f"{name} is {given}, which is no interpreter that can be run")
            return Path(given).absolute()
    for folder in (Path.cwd(), *Path(__file__).resolve().parents[1:3]):
        if os.access(folder / _FOLDER, os.X_OK):
            return folder / _FOLDER
    if find_spec("vllm") is not None:
        return Path(sys.executable)
    package = f"'{GPU}'" if has_gpu() else CPU
    cpu = "" if has_gpu() else f"\n  .venv-vllm/bin/pip uninstall -y {_UNFIT}"
    raise PolicyServerError(
        "vLLM was not found. From a checkout: python scripts/install_vllm.py. Elsewhere, in the current folder:\n"
        f"  python3 -m venv .venv-vllm\n  .venv-vllm/bin/pip install {package}{cpu}\n"
        f"or set {VARIABLE} to the interpreter of an environment that has it. Without vLLM: engine embedded."
    )
