"""The orchestrators of a configuration: apps of the user's own, and those built in from a catalogue."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolorch_integrations.catalog import Catalog
from toolorch_integrations.entry import AnyEntry
from toolorch_integrations.errors import ToolorchError
from toolorch_integrations.versions import VersionRouter
from toolorch_serving.gateway.config import GatewayConfig, OrchestratorConfig, PolicyConfig
from toolorch_serving.gateway.errors import ConfigError
from toolorch_serving.gateway.policy_client import policy_key
from toolorch_serving.gateway.runner import Runner
from toolorch_serving.gateway.threads import Threads

if TYPE_CHECKING:
    from toolorch_serving.tools import LoadedTools


def make_runners(
    config: GatewayConfig, router: VersionRouter | None = None, threads: Threads | None = None
) -> dict[str, Runner]:
    """Make the runners of all orchestrators of a configuration, by name.

    Args:
        config: The configuration.
        router: Says which policy version answers a conversation, for those that are built in.
        threads: The conversations of the gateway.

    Raises:
        ConfigError: An orchestrator cannot be made; the message names the field and the fix.
    """
    threads = threads if threads is not None else Threads()
    return {
        entry.name: _make(entry, f"orchestrators.{index} ({entry.name})", config, router, threads)
        for index, entry in enumerate(config.orchestrators)
    }


def as_runner(name: str, orchestrator: Any, threads: Threads) -> Runner | None:
    """Return a runner for an orchestrator of either framework; None for anything else.

    A framework is imported only where its objects are looked at: it takes seconds.
    """
    if _is(orchestrator, "langgraph.graph.state", "CompiledStateGraph"):
        from toolorch_serving.gateway.langgraph_runner import LangGraphRunner

        return LangGraphRunner(name, orchestrator, threads)
    if _is(orchestrator, "toolorch_integrations.llamaindex.agent", "OrchestratorAgent"):
        from toolorch_serving.gateway.llamaindex_runner import LlamaIndexRunner

        return LlamaIndexRunner(name, orchestrator, threads)
    return None


def load(path: str) -> Any:
    """Import `module:attribute`, also from the folder that the process was started in.

    Raises:
        ConfigError: There is no such module or attribute; the message says which.
    """
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        fix = "install it, or start the gateway in its folder" if error.name in (module_name, None) else "install that"
        raise ConfigError(f"the module {module_name!r} cannot be imported ({error}): {fix}") from error
    except Exception as error:
        raise ConfigError(f"the module {module_name!r} fails when imported: {type(error).__name__}: {error}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            known = ", ".join(sorted(item for item in vars(found) if not item.startswith("_"))[:20]) or "nothing"
            raise ConfigError(f"{module_name!r} has no {attribute!r}; it has {known}")
        found = getattr(found, name)
    return found


def _make(
    entry: OrchestratorConfig, where: str, config: GatewayConfig, router: VersionRouter | None, threads: Threads
) -> Runner:
    if entry.app is not None:
        with _at(f"{where}.app {entry.app!r}"):
            return _app(entry.name, entry.app, threads)
    return _built_in(entry, where, config, router, threads)


@contextmanager
def _at(field: str) -> Iterator[None]:
    """Say in which field of the configuration an error is."""
    try:
        yield
    except ToolorchError as error:
        raise ConfigError(f"{field}: {error}") from error


def _app(name: str, path: str, threads: Threads) -> Runner:
    found = load(path)
    runner = as_runner(name, found, threads)
    if runner is None and callable(found):
        runner = as_runner(name, _called(found), threads)
    if runner is None:
        raise ConfigError(
            f"it is a {type(found).__name__}: give a compiled LangGraph orchestrator, a LlamaIndex OrchestratorAgent, "
            "or a function without arguments that returns one"
        )
    return runner


def _called(factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except ToolorchError:
        raise
    except Exception as error:
        raise ConfigError(f"it fails when called: {type(error).__name__}: {error}") from error


def _built_in(
    entry: OrchestratorConfig, where: str, config: GatewayConfig, router: VersionRouter | None, threads: Threads
) -> Runner:
    from toolorch_integrations.langgraph import create_orchestrator
    from toolorch_serving.gateway.langgraph_runner import LangGraphRunner

    if config.policy is None:
        raise ConfigError(f"{where} is built in and needs a policy: add [policy] url")
    policy = _policy(config.policy, router)
    loaded = _tools(entry, where, config)
    with _at(f"{where}.catalog"):
        described = Catalog.from_file(entry.catalog) if entry.catalog is not None else Catalog()
    options: dict[str, Any] = {
        "preferences": entry.preferences,
        "budget": entry.budget,
        "system_prompt": entry.system_prompt,
        "name": entry.name,
    }
    with _at(where):
        if entry.rendering == "select":
            options |= {"rendering": "select", "select": loaded.select()}
            catalog = _merged(described, loaded.select_catalog())
        else:
            catalog = _merged(described, loaded.catalog())
        graph = create_orchestrator(policy, _own_tools(entry, loaded), catalog=catalog, **options)
        return LangGraphRunner(entry.name, graph, threads)


def _tools(entry: OrchestratorConfig, where: str, config: GatewayConfig) -> LoadedTools:
    from toolorch_serving.tools import load_tools

    given = [name for name in ("tools", "tools_file") if getattr(entry, name)]
    with _at(f"{where}.{' and '.join(given) or 'tools'}"):
        return load_tools(
            entry.tools,
            definitions=entry.tools_file,
            retrieval_url=None if config.retrieval is None else config.retrieval.url,
            retrieval_key_variable=None if config.retrieval is None else config.retrieval.key_variable,
        )


def _own_tools(entry: OrchestratorConfig, loaded: LoadedTools) -> list[Any]:
    return [] if entry.rendering == "select" else list(loaded.langchain())


def _merged(described: Catalog, loaded: Catalog) -> Catalog:
    """Return both catalogues as one; what the file says of a tool holds."""
    entries: list[AnyEntry] = [*described, *(entry for entry in loaded if entry.name not in described)]
    return Catalog(entries)


def _policy(config: PolicyConfig, router: VersionRouter | None) -> Any:
    from toolorch_integrations.langgraph import ChatPolicy
    from toolorch_integrations.langgraph.versions import RoutedChatPolicy

    options: dict[str, Any] = {
        "base_url": config.url,
        "api_key": policy_key(config) or "none",
        "timeout": config.timeout,
        "price": config.price,
    }
    if router is None:
        return ChatPolicy(model=config.model or "policy", **options)
    return RoutedChatPolicy(model=config.model or router.routes.current or "policy", router=router, **options)


def _is(thing: Any, module: str, name: str) -> bool:
    """Whether a thing is of a class, which is not imported for the question."""
    return any(base.__module__ == module and base.__name__ == name for base in type(thing).__mro__)
