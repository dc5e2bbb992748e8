"""`python -m toolorch_rl.training`, for launchers: `accelerate launch -m toolorch_rl.training train.toml`.

Takes a file with the fields of `TrainSettings` (TOML or JSON), and fields as `name=value`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from toolorch_integrations.errors import ToolorchError
from toolorch_rl.training.run import train
from toolorch_rl.training.settings import TrainSettings, value_of


def main(arguments: list[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m toolorch_rl.training", description="Train a policy on traces.")
    parser.add_argument("settings", nargs="?", help="TOML or JSON file with the settings")
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE", help="settings that go before the file's")
    given = parser.parse_args(arguments)
    words = [word for word in (given.settings, *given.values) if word]
    files = [word for word in words if "=" not in word]
    try:
        values = dict(value_of(word) for word in words if "=" in word)
        settings = TrainSettings.read(files[0], **values) if files else TrainSettings.of(values)
        result = train(settings)
    except ToolorchError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        _leave_group()
    if os.environ.get("RANK", "0") == "0":
        said = {"folder": str(result.folder), "counts": result.counts, "refused": result.refused}
        print(json.dumps(said))  # noqa: T201
    return 0


def _leave_group() -> None:
    """Leave the group of processes: gloo aborts a process that ends while its peers still listen."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
