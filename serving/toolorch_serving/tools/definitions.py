"""Tools and models from a JSON file in OpenAI's function format, as ToolOrchestra's chat service takes it.

    {"tools": [{"type": "function",
                "function": {"name": "answer", "description": "...", "parameters": {"type": "object",
                    "properties": {"model": {"type": "string", "enum": ["qwen"]}}, "required": ["model"]}}},
               {"type": "function", "function": {"name": "word_count", ...},
                "implementation": "my_tools:word_count", "price": {"call": 0.001}}],
     "models": {"qwen": {"description": "Reads and writes.", "price": {"input": 0.1, "output": 0.3}}}}

A plain list of tools is a file without `models`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolorch_integrations.entry import Price, Tool, is_name
from toolorch_serving.tools.errors import DefinitionError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FunctionDefinition(BaseModel):
    """OpenAI's definition of a function; fields of it that nothing here needs, such as `strict`, are let through."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})


class ToolDefinition(_Strict):
    """A tool of the file.

    Attributes:
        type: Always `function`.
        function: What the policy reads.
        implementation: `module:function` of the app's own; the tools out of the box need none.
        price: What it costs.
        latency: Typical seconds of a call.
        capabilities: Free words.
        destructive: Whether a person must confirm each call; None leaves it to the name.
        timeout: Seconds until a call is given up.
        retries: Further tries after a call that failed.
    """

    type: Literal["function"] = "function"
    function: FunctionDefinition
    implementation: str | None = None
    price: Price | None = None
    latency: float | None = Field(None, ge=0)
    capabilities: tuple[str, ...] = ()
    destructive: bool | None = None
    timeout: float | None = Field(None, gt=0)
    retries: int | None = Field(None, ge=0, le=10)

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.function.name

    @property
    def model_schema(self) -> Mapping[str, Any] | None:
        """The schema of the argument `model`, with which the policy chooses a specialist; None without one."""
        schema = self.function.parameters.get("properties", {}).get("model")
        return schema if isinstance(schema, Mapping) else None

    def changed(self, entry: Tool) -> Tool:
        """Return a tool's own entry with what the file says otherwise."""
        said = {
            "description": self.function.description,
            "price": self.price,
            "latency": self.latency,
            "capabilities": self.capabilities,
            "destructive": self.destructive,
            "timeout": self.timeout,
            "retries": self.retries,
        }
        return entry.model_copy(
            update={key: value for key, value in said.items() if value is not None and value not in ("", ())}
        )

    def entry(self) -> Tool:
        """Return the entry of an app's own tool."""
        return self.changed(Tool(name=self.name, parameters=self.function.parameters))


class ModelDefinition(_Strict):
    """What a file says of a model alias; each field may be left out.

    Attributes:
        variable: Begins the names of the environment variables `..._API_URL`, `..._API_KEY` and `..._MODEL`; by default
            the alias in capitals.
        model: Model name to ask the endpoint for; by default what `..._MODEL` says, else the alias.
        description: What it is good at.
        price: What its tokens cost.
        latency: Typical seconds of a call.
        fallback: Alias to ask when it fails.
        timeout: Seconds until a call is given up.
        max_tokens: Most output tokens of a call.
        temperature: Sampling temperature.
    """

    variable: str | None = None
    model: str | None = None
    description: str | None = None
    price: Price | None = None
    latency: float | None = Field(None, ge=0)
    fallback: str | None = None
    timeout: float | None = Field(None, gt=0)
    max_tokens: int | None = Field(None, gt=0)
    temperature: float | None = None


class Definitions(_Strict):
    """What a file holds."""

    tools: list[ToolDefinition]
    models: dict[str, ModelDefinition] = Field(default_factory=dict)


def read_definitions(path: str | Path) -> Definitions:
    """Read a definitions file.

    Raises:
        DefinitionError: It cannot be read, is no JSON, or does not hold definitions; the message names the field.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DefinitionError(f"Cannot read the definitions {path}: {error}") from error
    if isinstance(data, list):
        data = {"tools": data}
    try:
        found = Definitions.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise DefinitionError(f"{path}: {field or 'the file'}: {first['msg']}.") from error
    _check(found, path)
    return found


def load_function(definition: ToolDefinition, path: str | Path) -> Callable[..., Any]:
    """Import an app's function; its module may stand beside the file.

    Raises:
        DefinitionError: It cannot be imported, or does not take the arguments that the definition names.
    """
    where = f"{path}: implementation of {definition.name!r}"
    module, _, name = (definition.implementation or "").partition(":")
    if not module or not name:
        raise DefinitionError(f"{where} is {definition.implementation!r}: write module:function.")
    beside = str(Path(path).resolve().parent)
    sys.path.insert(0, beside)
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module may raise anything when it is imported
        raise DefinitionError(f"{where}: cannot import {definition.implementation}: {error}.") from error
    finally:
        sys.path.remove(beside)
    if not callable(function):
        raise DefinitionError(f"{where}: {definition.implementation} is no function.")
    try:
        inspect.signature(function).bind(**dict.fromkeys(definition.function.parameters.get("properties", {})))
    except TypeError as error:
        raise DefinitionError(f"{where}: the function does not take the arguments of `parameters`: {error}.") from error
    return function  # type: ignore[no-any-return]


def _check(found: Definitions, path: str | Path) -> None:
    names: set[str] = set()
    for index, tool in enumerate(found.tools):
        where = f"{path}: tools[{index}].function"
        if not is_name(tool.name):
            raise DefinitionError(f"{where}.name {tool.name!r} must be 1 to 64 letters, digits, '_', '.' or '-'.")
        if tool.name in names:
            raise DefinitionError(f"{where}.name {tool.name!r} stands twice: rename one.")
        names.add(tool.name)
        try:
            Draft202012Validator.check_schema(tool.function.parameters)
        except SchemaError as error:
            raise DefinitionError(f"{where}.parameters is no JSON Schema: {error.message}.") from error
        for argument in tool.function.parameters.get("properties", {}):
            if not argument.isidentifier() or argument.startswith("_"):
                raise DefinitionError(f"{where}.parameters: {argument!r} cannot be an argument of a Python function.")
