"""What the streaming load meets: policy, specialist and gateways as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import psutil

from benchmarks.capturing_proxy import free_port, wait_for
from benchmarks.streams_load import KEY, WARM, Load, Told

CATALOG = """
[[specialists]]
name = "expert"
description = "Thinks a request over."
price = {{ input = 1.0, output = 2.0 }}
endpoint = {{ url = "{expert}", model = "expert" }}
"""
CONFIG = """
[server]
drain_seconds = {drain}

[store]
url = "{store}"
spool = "{spool}"

[policy]
url = "{policy}"
model = "policy"
price = {{ input = 0.1, output = 0.4 }}

[[orchestrators]]
name = "orchestrator"
catalog = "catalog.toml"

[[keys]]
name = "streams"
sha256 = "{key}"
"""


class Server:
    """A process that listens; may be ended and started again on the same port."""

    def __init__(self, command: list[str], port: int, path: str, log: Path, environment: Mapping[str, str]) -> None:
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self._command, self._path, self._log = command, path, log
        self._environment = dict(environment)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, without waiting until it listens."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | self._environment, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it listens."""
        assert self.process is not None
        try:
            wait_for(self.root + self._path, self.process)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.said()[-2000:]}") from error

    @property
    def lives(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self, *, writer: bool) -> None:
        """End it by SIGKILL.

        Args:
            writer: Whether the writer of its capture is killed too; else that outlives it.
        """
        assert self.process is not None
        children = psutil.Process(self.process.pid).children() if writer else []
        self.process.kill()
        for child in children:
            child.kill()
        self.process.wait()

    def said(self) -> str:
        """Return what it has logged."""
        return self._log.read_text(errors="replace")

    def end(self, sign: int = signal.SIGTERM, seconds: float = 90.0) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def memory(self) -> dict[str, float]:
        """Return the megabytes that it and the writer of its capture hold."""
        assert self.process is not None
        sizes: dict[str, float] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            sizes["gateway"] = own.memory_info().rss / 1e6
            for child in own.children():
                if "detached_writer" in " ".join(child.cmdline()):
                    sizes["writer"] = child.memory_info().rss / 1e6
        return sizes

    def processor_seconds(self) -> float:
        """Return the processor time of it and its children so far."""
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        return float(sum(sum(one.cpu_times()[:2]) for one in (own, *own.children())))


class World:
    """Policy, specialist, and gateways on one store.

    Args:
        folder: For files, spool and logs.
        store: File name or URL.
        environment: Pace of policy, specialist and clients; see `streams_policy`.
        gateways: How many.
        drain_seconds: Of the gateways.
    """

    def __init__(
        self,
        folder: Path,
        store: str,
        environment: Mapping[str, str],
        gateways: int = 1,
        drain_seconds: float = 60.0,
    ) -> None:
        self.folder, self.store = folder, store
        self._environment = environment
        self.policy = self._model_server("policy")
        self.expert = self._model_server("expert")
        (folder / "catalog.toml").write_text(CATALOG.format(expert=f"{self.expert.root}/v1"))
        facts = {"store": store, "spool": folder / "spool", "policy": f"{self.policy.root}/v1", "drain": drain_seconds}
        (folder / "gateway.toml").write_text(CONFIG.format(**facts, key=sha256(KEY.encode()).hexdigest()))
        self.servers = [self.policy, self.expert]
        self.policy.wait()
        self.expert.wait()
        self.gateways: list[Server] = []
        self.serve(gateways)

    def serve(self, number: int) -> list[Server]:
        """Return so many gateways that listen; dead ones are replaced."""
        self.gateways = [gateway for gateway in self.gateways if gateway.lives]
        for _ in range(number - len(self.gateways)):
            self.gateways.append(self._gateway(len(self.servers)))
        for gateway in self.gateways:
            gateway.wait()
        return self.gateways

    def _model_server(self, name: str) -> Server:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.streams_policy", str(port)]
        return Server(command, port, "/v1/models", self.folder / f"{name}.log", self._environment)

    def _gateway(self, number: int) -> Server:
        port = free_port()
        config = str(self.folder / "gateway.toml")
        command = [str(Path(sys.executable).with_name("toolorch")), "serve", "gateway", config, "--port", str(port)]
        server = Server(command, port, "/health", self.folder / f"gateway-{number}.log", {})
        self.servers.append(server)
        return server

    def clients(self, gateway: Server, load: Load) -> Clients:
        """Start clients of a gateway."""
        return Clients(f"{gateway.root}/v1/chat/completions", load, self._environment)

    def close(self) -> None:
        """End what runs."""
        for server in reversed(self.servers):
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.end()


@contextlib.contextmanager
def world(folder: Path, store: str, environment: Mapping[str, str]) -> Iterator[World]:
    """Run a world with one gateway for as long as the block lasts."""
    made = World(folder, store, environment)
    try:
        yield made
    finally:
        made.close()


class Clients:
    """Clients in a process of their own."""

    def __init__(self, url: str, load: Load, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.streams_load", url, json.dumps(asdict(load))]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | dict(environment)
        )

    def warm(self) -> None:
        """Wait until as many requests have ended as there are clients, or all."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.decode().strip() != WARM:
            raise RuntimeError(f"the clients ended at once: {line[:2000]!r}")

    def told(self, timeout: float | None = None) -> Told:
        """Wait for the end; return what they were told."""
        try:
            out, said = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        if self.process.returncode:
            raise RuntimeError(f"the clients failed: {said.decode()[-2000:]}")
        return Told(**json.loads(out.splitlines()[-1]))
