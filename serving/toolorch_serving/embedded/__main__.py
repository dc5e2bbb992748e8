"""Serve a policy in this process: `python -m toolorch_serving.embedded MODEL --port 8000`."""

from __future__ import annotations

import argparse
import sys

import uvicorn

from toolorch_serving.embedded.app import create_app
from toolorch_serving.embedded.engine import Engine
from toolorch_serving.embedded.policy_model import DTYPES, load
from toolorch_serving.embedded.running import Served
from toolorch_serving.process import PolicyServerError, default_name


def main() -> None:
    """Read the command line, load the policy and serve it."""
    parser = argparse.ArgumentParser(prog="toolorch_serving.embedded", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto")
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--reasoning-parser", choices=("qwen3",))
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER")
    options = parser.parse_args()
    try:
        model, tokenizer, end_tokens, longest = load(
            options.model, dtype=options.dtype, max_model_len=options.max_model_len
        )
    except (PolicyServerError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    for adapter in options.adapter:
        name, _, path = adapter.partition("=")
        model.load_adapter(name, path)
    served = Served(
        engine=Engine(model, tokenizer, end_tokens=end_tokens, max_batch=options.max_batch),
        tokenizer=tokenizer,
        name=options.name or default_name(options.model),
        root=options.model,
        longest=longest,
        reasoning=options.reasoning_parser is not None,
    )
    uvicorn.run(
        create_app(served), host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=2
    )


if __name__ == "__main__":
    main()
