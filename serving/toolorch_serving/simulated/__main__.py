"""Serve the simulated specialists: `python -m toolorch_serving.simulated --port 8100`."""

from __future__ import annotations

import argparse
import os
import pkgutil
import socket
import sys
import threading
import time

import uvicorn

from toolorch_serving.simulated.server import create_app
from toolorch_serving.simulated.service import DEFAULT


def main() -> None:
    """Bind, print the URL, serve; end when the parent has gone."""
    parser = argparse.ArgumentParser(description="Simulated specialists behind OpenAI's chat completions")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--seed", type=int, default=0, help="decides which answers go wrong")
    parser.add_argument("--latency-scale", type=float, default=1.0, help="factor on all latencies")
    parser.add_argument("--specialists", default=DEFAULT, metavar="MODULE:NAME", help="who answers")
    given = parser.parse_args()
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", given.port))
    app = create_app(pkgutil.resolve_name(given.specialists), seed=given.seed, latency_scale=given.latency_scale)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    threading.Thread(target=_end_with, args=(os.getppid(), server), daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{bound.getsockname()[1]}\n")
    sys.stdout.flush()
    server.run(sockets=[bound])


def _end_with(parent: int, server: uvicorn.Server) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    server.should_exit = True


if __name__ == "__main__":
    main()
