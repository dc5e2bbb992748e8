"""Folders of weights, looked at before a server is asked to load them.

vLLM does not survive weights that it cannot load: it answers the reload with an error, and then ends. So a folder is
compared with the one that the server was started on first, by the headers of its files.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from toolorch_rl.weights.errors import WeightsError

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def untie(folder: str | Path, into: str | Path) -> Path:
    """Write a copy of a model whose output head is a tensor of its own; the function that it computes is the same.

    A server on a CPU packs the output head when it starts. Where the head is tied to the embeddings, a reload changes
    the embeddings and leaves the packed head as it was. A server that is started on the copy reloads right. Other
    files are linked where the file system allows it.

    Raises:
        WeightsError: The folder is not a model in safetensors with the usual names.
    """
    from safetensors.torch import load_file, save_file

    source, target = Path(folder), Path(into)
    config = _config(source)
    shapes(source)  # Refuses what is damaged.
    index = json.loads((source / _INDEX).read_text("utf-8")) if (source / _INDEX).is_file() else None
    holder = index["weight_map"].get(_EMBEDDING) if index else _FILE
    tensors = load_file(source / holder) if holder else {}
    if _EMBEDDING not in tensors:
        raise WeightsError(f"{source} has no tensor {_EMBEDDING}: the output head cannot be untied")
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.name not in ("config.json", holder, _INDEX):
            _link(path, target / path.name)
    if _HEAD not in tensors and (index is None or _HEAD not in index["weight_map"]):
        tensors[_HEAD] = tensors[_EMBEDDING].clone()
        if index is not None:
            index["weight_map"][_HEAD] = holder
    save_file(tensors, target / str(holder), metadata={"format": "pt"})
    if index is not None:
        (target / _INDEX).write_text(json.dumps(index), "utf-8")
    (target / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}, indent=2), "utf-8")
    return target


def is_tied(folder: str | Path) -> bool:
    """Whether a model's output head is its embeddings."""
    config = _config(Path(folder))
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings", False)))


def check_same_model(folder: str | Path, served: str | Path) -> None:
    """Refuse weights that do not fit the model that is served.

    Raises:
        WeightsError: A tensor is missing, of another shape, or damaged; the message names it.
    """
    new, old = shapes(Path(folder)), shapes(Path(served))
    new.setdefault(_HEAD, new.get(_EMBEDDING, []))  # A tied head is written out before the reload.
    old.setdefault(_HEAD, old.get(_EMBEDDING, []))
    wrong = [name for name in sorted(new.keys() | old.keys()) if new.get(name) != old.get(name)]
    if wrong:
        name = wrong[0]
        raise WeightsError(
            f"the weights in {folder} are not of the model in {served}: {name} has shape {new.get(name)} instead of "
            f"{old.get(name)}, and {len(wrong) - 1} more differ. Train from the model that is served"
        )


def check_adapter(folder: str | Path) -> None:
    """Refuse a folder that holds no whole LoRA adapter.

    Raises:
        WeightsError: It holds none.
    """
    path = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (path / name).is_file():
            raise WeightsError(f"{path} holds no {name}: give the folder of a LoRA adapter in peft's format")
    _header(path / "adapter_model.safetensors")


def shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor in a folder, from its files' headers.

    Raises:
        WeightsError: There are no weights, or a file is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder} holds no *.safetensors: save the model with save_pretrained")
    return {name: entry["shape"] for path in files for name, entry in _header(path).items()}


def _header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's header: 8 bytes of length, then JSON; the rest must be as long as it says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, size)))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path} is damaged: its header cannot be read") from error
    if size != 8 + length + end:
        raise WeightsError(f"{path} is damaged: it has {size} bytes, and should have {8 + length + end}")
    return dict(header)


def _config(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} is not the folder of a model: {error}") from error


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
