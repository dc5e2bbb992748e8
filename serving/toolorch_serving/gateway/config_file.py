"""Reading the configuration: a TOML file, the environment over it, and errors that name the field and the fix."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError
from sqlalchemy import make_url

from toolorch_serving.gateway.config import PREFIX, GatewayConfig, ServerConfig
from toolorch_serving.gateway.errors import ConfigError


def load_config(path: str | Path | None = None, server: Mapping[str, Any] = {}) -> GatewayConfig:
    """Read a file, and the environment over it; relative paths are taken from the file's folder.

    Args:
        path: TOML file; None: the environment only.
        server: Fields of [server] that take precedence over both.

    Raises:
        ConfigError: It cannot be read, or is not valid; the message names the field and the fix.
    """
    file = None if path is None else Path(path).absolute()
    data = {} if file is None else _read(file)
    where = "configuration" if path is None else str(path)
    _known_variables()
    try:
        config = GatewayConfig(**data)
        if server:
            merged = ServerConfig(**{**config.server.model_dump(), **server})
            config = config.model_copy(update={"server": merged})
    except ValidationError as error:
        raise ConfigError("; ".join(f"{where}: {line}" for line in _lines(error))) from error
    except SettingsError as error:
        raise ConfigError(f"{error}: lists and tables in {PREFIX}* variables are written as JSON") from error
    config = config if file is None else _resolved(config, file.parent)
    check(config)
    return config


def check(config: GatewayConfig) -> None:
    """Refuse what is valid field by field and makes no sense, or is not safe, as a whole.

    Raises:
        ConfigError: The message names the field and the fix.
    """
    server = config.server
    if not config.keys and not server.is_loopback and not server.open:
        raise ConfigError(
            f"server.host is {server.host}, which others can reach, and there are no keys: add [[keys]], listen on "
            "127.0.0.1, or say server.open = true if anybody may use the gateway"
        )
    _unique("orchestrators", [entry.name for entry in config.orchestrators])
    _unique("keys", [entry.name for entry in config.keys])
    for index, entry in enumerate(config.orchestrators):
        if entry.app is None and config.policy is None:
            raise ConfigError(f"orchestrators.{index} ({entry.name}) is built in and needs a policy: add [policy] url")
        if "local_search" in entry.tools and config.retrieval is None:
            raise ConfigError(f"orchestrators.{index}.tools has local_search: add [retrieval] url, or leave it out")
    for origin in server.cors_origins:
        if origin == "*" and not config.keys:
            raise ConfigError('server.cors_origins is "*" and there are no keys: any page could call; name the origins')


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): give the gateway's TOML file") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def _known_variables() -> None:
    """Refuse variables that would be ignored, since their section does not exist."""
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            section = name[len(PREFIX) :].partition("__")[0].lower()
            if section not in GatewayConfig.model_fields:
                raise ConfigError(f"environment variable {name}: {_unknown(section, GatewayConfig)}")


def _lines(error: ValidationError) -> Iterator[str]:
    for entry in error.errors():
        field = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            yield f"{field}: {_unknown(str(entry['loc'][-1]), _model_at(entry['loc'][:-1]))}"
        elif entry["type"] == "missing":
            yield f"{field} is missing"
        else:
            given = "" if isinstance(entry["input"], Mapping) or _secret(field) else f" (it is {entry['input']!r:.100})"
            yield f"{field}: {entry['msg'].removeprefix('Value error, ')}{given}"


def _secret(field: str) -> bool:
    return field.startswith("store.url") or field.endswith("sha256")


def _unknown(name: str, model: type[BaseModel] | None) -> str:
    fields = sorted(model.model_fields) if model else []
    close = difflib.get_close_matches(name, fields, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(fields)}" if fields else "leave it out"
    return f"there is no {name}; {hint}"


def _model_at(path: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model of a place in the configuration."""
    model: type[BaseModel] | None = GatewayConfig
    for part in path:
        if model is None or isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        model = next(_models(annotation), None)
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def _unique(field: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{field}: two are named {name!r}; rename one")


def _resolved(config: GatewayConfig, folder: Path) -> GatewayConfig:
    """Return the configuration with its relative paths taken from a folder."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else folder / path.expanduser()

    orchestrators = tuple(
        entry.model_copy(update={name: absolute(getattr(entry, name)) for name in ("catalog", "tools_file")})
        for entry in config.orchestrators
    )
    url = config.store.url
    if "://" not in url:
        url = str(absolute(Path(url)))
    elif url.startswith("sqlite:///"):
        url = f"sqlite:///{absolute(Path(make_url(url).database or ''))}"
    store = config.store.model_copy(update={"url": url, "spool": absolute(config.store.spool)})
    return config.model_copy(update={"orchestrators": orchestrators, "store": store})
