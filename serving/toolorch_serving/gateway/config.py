"""The gateway's configuration: one TOML file, and environment variables that take precedence over it."""

from __future__ import annotations

import ipaddress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from toolorch_integrations.budget import Budget
from toolorch_integrations.entry import Price
from toolorch_integrations.preferences import Preferences
from toolorch_integrations.spool.place import spool_folder

PREFIX = "TOOLORCH_GATEWAY__"
Role = Literal["chat", "feedback", "read", "admin"]
ROLES: tuple[Role, ...] = ("chat", "feedback", "read", "admin")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(_Section):
    """Where the gateway listens, and what it lets in.

    Attributes:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        request_bytes: Largest body of a request.
        request_seconds: Longest that a request may take, its stream included.
        requests_at_once: Requests that may run at once; further ones are told to come back, which is kinder than to let
            all of them wait for a processor. A stream counts until its end.
        drain_seconds: How long running requests may go on after SIGTERM.
        cors_origins: Origins of other sites whose pages may call the gateway; none by default.
        open: Whether it may listen beyond loopback, or behind a proxy on this machine, without any key.
        open_roles: What callers may do then. Without `open` only this machine's own call, and may do everything.
    """

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65_535)
    request_bytes: int = Field(2 * 2**20, gt=0)
    request_seconds: float = Field(300.0, gt=0)
    requests_at_once: int = Field(2_000, gt=0)
    drain_seconds: float = Field(30.0, ge=0)
    cors_origins: tuple[str, ...] = ()
    open: bool = False
    open_roles: tuple[Role, ...] = ("chat", "feedback", "read")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class StoreConfig(_Section):
    """Where traces go.

    Attributes:
        url: `traces.db`, `sqlite:///traces.db` or `postgresql://...`.
        spool: Folder for events that the store has not taken yet; None: beside an SQLite store, else `spool`.
        retention_days: Traces that are older are deleted; None keeps all.
    """

    url: str = "traces.db"
    spool: Path | None = None
    retention_days: float | None = Field(None, gt=0)

    @property
    def spool_folder(self) -> Path:
        """Where the spool is."""
        return spool_folder(self.url) if self.spool is None else self.spool


class PolicyConfig(_Section):
    """The policy server: upstream of the capturing proxy, and policy of built-in orchestrators.

    Attributes:
        url: Base URL, `/v1` included; where several servers stand behind it, the balancer's.
        replicas: Base URLs of these servers: a version serves where each of them has it, and leaves each of them.
        model: Name of the policy that serves before anything was promoted; None: the server's first.
        key_variable: Environment variable with the server's API key.
        timeout: Seconds until a call is given up.
        price: Of the policy's tokens.
    """

    url: str
    replicas: tuple[str, ...] = ()
    model: str | None = None
    key_variable: str | None = None
    timeout: float = Field(120.0, gt=0)
    price: Price = Price()

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no base URL: give one such as http://127.0.0.1:8000/v1")
        return url.rstrip("/")

    @field_validator("replicas")
    @classmethod
    def _are_http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        checked = tuple(cls._is_http(url) for url in urls)
        twice = [url for url in checked if checked.count(url) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named twice: name each server once")
        return checked


class OrchestratorConfig(_Section):
    """One orchestrator: an app of one's own, or one built from a catalogue.

    Attributes:
        name: Clients ask for it as `model`.
        app: `module:attribute` of a compiled LangGraph orchestrator, of a LlamaIndex `OrchestratorAgent`, or of a
            function that returns one.
        catalog: Catalogue file of a built-in orchestrator.
        tools_file: Definitions of further tools in OpenAI's function format.
        tools: Built-in tools: code_interpreter, search, fetch_page, local_search.
        rendering: How the policy is asked: chat or select. An app of one's own says it where it is made, in either
            framework, and so all that follows.
        system_prompt: Its first message; select has no place for one.
        preferences: Where a request gives none.
        budget: Where a request gives none; none of its limits can be exceeded by a request's own.
    """

    name: str = Field("orchestrator", min_length=1, max_length=200)
    app: str | None = None
    catalog: Path | None = None
    tools_file: Path | None = None
    tools: tuple[str, ...] = ()
    rendering: Literal["chat", "select"] = "chat"
    system_prompt: str | None = None
    preferences: Preferences | None = None
    budget: Budget | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.app is not None and (self.catalog or self.tools_file or self.tools):
            raise ValueError("app stands alone: leave out catalog, tools_file and tools, or leave out app")
        if self.app is None and not (self.catalog or self.tools_file or self.tools):
            raise ValueError('give app ("module:attribute"), or at least one of catalog, tools_file and tools')
        if self.app is not None and not all(self.app.partition(":")):
            raise ValueError(f"app {self.app!r} must be module:attribute, such as shop.agents:support")
        ignored = sorted({"rendering", "system_prompt", "preferences", "budget"} & self.model_fields_set)
        if self.app is not None and ignored:
            raise ValueError(f"{ignored[0]} is for orchestrators that are built in: set it where {self.app} is made")
        if self.rendering == "select" and self.system_prompt:
            raise ValueError('rendering = "select" has no place for a system_prompt: leave it out')
        return self


class KeyConfig(_Section):
    """An API key of a caller.

    Attributes:
        name: Of the caller; spending and feedback are noted under it.
        sha256: Hexadecimal digest of the key (`printf %s "$KEY" | sha256sum`).
        variable: Environment variable with the key itself, in place of its digest.
        roles: chat (ask), feedback, read (traces, routing, versions), admin (promote and roll back).
        requests_per_minute: None: no limit.
        dollars_per_day: By UTC days, over all gateways on the store. None: no limit.
        expires: Day, or moment with an offset (UTC where it has none), from which on it is refused.
        models: Orchestrators and upstream models that it may ask; empty: all.
    """

    name: str = Field(min_length=1, max_length=200)
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    variable: str | None = None
    roles: tuple[Role, ...] = ("chat", "feedback")
    requests_per_minute: float | None = Field(None, gt=0)
    dollars_per_day: float | None = Field(None, ge=0)
    expires: datetime | None = None
    models: tuple[str, ...] = ()

    @field_validator("expires", mode="before")
    @classmethod
    def _day(cls, value: Any) -> Any:
        return datetime(value.year, value.month, value.day) if type(value) is date else value

    @field_validator("expires")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.sha256 is None) == (self.variable is None):
            raise ValueError("give either sha256 (of the key) or variable (that holds the key)")
        return self


class RetrievalConfig(_Section):
    """The retrieval service.

    Attributes:
        url: Its base URL.
        key_variable: Environment variable with its key.
    """

    url: str
    key_variable: str | None = None


class GatewayConfig(BaseSettings):
    """The whole configuration, as `config_file.load_config` reads it; arguments come from the file.

    Attributes:
        server: Where the gateway listens, and what it lets in.
        store: Where traces go.
        policy: The policy server; None: there is no proxy, and all orchestrators are apps.
        orchestrators: By the names that clients ask for.
        keys: Of the callers; without any, all callers are anonymous.
        retrieval: The retrieval service.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    server: ServerConfig = ServerConfig()
    store: StoreConfig = StoreConfig()
    policy: PolicyConfig | None = None
    orchestrators: tuple[OrchestratorConfig, ...] = ()
    keys: tuple[KeyConfig, ...] = ()
    retrieval: RetrievalConfig | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment take precedence over the file, whose content comes as arguments."""
        return env_settings, init_settings
