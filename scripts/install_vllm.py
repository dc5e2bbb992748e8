"""Install vLLM into an environment of its own, `.venv-vllm`: the CPU build, or vLLM itself with an NVIDIA GPU.

Its pins and those of llama-index-core exclude each other, therefore the separate environment. Standard library only;
run it with the interpreter that the environment is to have. Does nothing if the same has been installed before.

    python scripts/install_vllm.py [--folder .venv-vllm]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "serving"))  # the package itself is not installed where this runs

from toolorch_serving.vllm_release import CPU, GPU, UNFIT_ON_CPU, has_gpu  # noqa: E402

MARKER = "toolorch-vllm.txt"


def say(text: str) -> None:
    """Print one line at once, also into a pipe."""
    sys.stdout.write(f"vllm: {text}\n")
    sys.stdout.flush()


def run(*command: str) -> None:
    """Run a command quietly; if it fails, show what it said and stop."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\nvllm: failed ({done.returncode}): {' '.join(command)}")


def install(folder: Path, specification: str, *, cpu: bool) -> None:
    """Create the environment and install vLLM into it."""
    python = folder / "bin" / "python"
    pip = (str(python), "-m", "pip", "--disable-pip-version-check")
    if not python.exists():
        say(f"creating {folder}")
        run(sys.executable, "-m", "venv", str(folder))
    say(f"installing {specification} (two minutes or more)")
    run(*pip, "install", "--quiet", specification)
    if cpu:
        say(f"removing {', '.join(UNFIT_ON_CPU)}, which a CPU does not need")
        run(*pip, "uninstall", "--quiet", "--yes", *UNFIT_ON_CPU)
    say("trying to import it")
    target = {"VLLM_TARGET_DEVICE": "cpu"} if cpu else {}
    probe = [str(python), "-c", "import vllm.entrypoints.openai.api_server"]
    tried = subprocess.run(
        probe, env=os.environ | target, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if tried.returncode:
        sys.exit(f"{tried.stdout[-3000:]}\nvllm: installed, but it does not import")


def main() -> None:
    """Install unless the marker says that the same is there already."""
    parser = argparse.ArgumentParser(description="Install vLLM into an environment of its own.")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-vllm")
    folder = parser.parse_args().folder
    if sys.platform != "linux":
        sys.exit("vllm: it needs Linux; elsewhere policies are served by the embedded engine")
    cpu = not has_gpu()
    specification = CPU if cpu else GPU
    marker = folder / MARKER
    if marker.is_file() and marker.read_text().strip() == specification:
        say(f"{specification} is installed in {folder}")
        return
    install(folder, specification, cpu=cpu)
    marker.write_text(f"{specification}\n")
    say(f"ready in {folder}")


if __name__ == "__main__":
    main()
