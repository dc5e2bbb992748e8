"""The README's Python runs as it stands, against scripted servers in place of the addresses that it names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from toolorch_integrations.testing import ScriptedPolicy

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_block_runs_as_a_program(code: str, tmp_path: Path) -> None:
    with ScriptedPolicy(["It prints: e"], model="policy") as policy:
        program = code.replace("http://127.0.0.1:8000/v1", policy.url)
        done = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert policy.requests


def test_the_gateways_configuration_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "gateway.toml").write_text(block)
    specialist = '[[specialists]]\nname = "coder"\nendpoint = { url = "http://127.0.0.1:8001/v1", model = "coder" }\n'
    (tmp_path / "catalog.toml").write_text(specialist)
    command = [sys.executable, "-c", "from toolorch_integrations.cli import app; app()"]
    command += ["serve", "gateway", "gateway.toml", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_use_is_there() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("link", re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text()))
def test_linked_files_exist(link: str) -> None:
    assert (ROOT / link).is_file()
