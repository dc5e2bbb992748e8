"""The embedded engine in a child process on loopback."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from toolorch_serving.process import PolicyServerError, ServerProcess

_NEEDED = ("torch", "transformers", "fastapi", "uvicorn")


class EmbeddedServer(ServerProcess):
    """Serves a policy with transformers, in the same protocol as vLLM. A context manager.

    Example:
        >>> with EmbeddedServer("policies/demo") as server:  # doctest: +SKIP
        ...     httpx.get(f"{server.url}/models")
    """

    engine: ClassVar[str] = "embedded"

    def __init__(
        self,
        model: str | Path,
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        max_model_len: int | None = None,
        dtype: str = "auto",
        adapters: Mapping[str, str | Path] | None = None,
        reasoning_parser: str | None = None,
        max_batch: int = 32,
        startup_timeout: float = 120,
        log_path: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        """Prepare the server.

        Args:
            model: Folder or hub name of the policy.
            name: Name to serve it under; by default the folder's own name.
            host: Address to listen on.
            port: Port to listen on; 0 takes a free one.
            max_model_len: Longest prompt plus answer in tokens; by default the model's own limit.
            dtype: float32, bfloat16, float16, or auto (as stored; float32 on a CPU).
            adapters: LoRA adapters to load at the start, folder by name.
            reasoning_parser: "qwen3" if every answer begins with reasoning.
            max_batch: Most requests to run at once; others wait.
            startup_timeout: Seconds that loading may take.
            log_path: Where the log goes; by default a new file in the temporary folder.
            progress: Whether to show on standard error what the start is doing.

        Raises:
            PolicyServerError: Something that the engine needs is not installed, or an option has no meaning here.
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
        missing = [module for module in _NEEDED if find_spec(module) is None]
        if missing:
            raise PolicyServerError(
                f"the embedded engine needs {', '.join(missing)}: pip install 'toolorch-integrations[serving]'"
            )
        if reasoning_parser not in (None, "qwen3"):
            raise PolicyServerError(f"reasoning_parser {reasoning_parser!r}: the embedded engine knows only qwen3")
        self._options = {
            "--max-model-len": max_model_len,
            "--dtype": dtype,
            "--max-batch": max_batch,
            "--reasoning-parser": reasoning_parser,
        }
        self._adapters = dict(adapters or {})

    def command(self) -> list[str]:
        """Return the command that serves on `self.port`."""
        command = [sys.executable, "-m", "toolorch_serving.embedded", self.model]
        command += ["--name", self.name, "--host", self.host, "--port", str(self.port)]
        for flag, value in self._options.items():
            command += [flag, str(value)] if value is not None else []
        for name, path in self._adapters.items():
            command += ["--adapter", f"{name}={path}"]
        return command

    def environment(self) -> dict[str, str]:
        """Return the additions to the command's environment."""
        return {"HF_HUB_OFFLINE": "1"} if Path(self.model).is_dir() else {}
