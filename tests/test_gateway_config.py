"""The gateway's configuration: a file, the environment over it, and errors that name the field and the fix."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.gateway_world import sha256
from toolorch_integrations.cli import app
from toolorch_integrations.entry import Price
from toolorch_serving.gateway.config_file import load_config
from toolorch_serving.gateway.errors import ConfigError
from toolorch_serving.gateway.keys import Keyring

FULL = f"""
[server]
port = 9000
cors_origins = ["https://app.example"]

[store]
url = "data/traces.db"
retention_days = 30

[policy]
url = "http://127.0.0.1:8000/v1/"
price = {{ input = 0.1, output = 0.4 }}

[[orchestrators]]
name = "shop"
catalog = "catalog.toml"
tools = ["search"]
budget = {{ dollars = 0.05 }}

[[orchestrators]]
name = "support"
app = "shop.agents:support"

[[keys]]
name = "app"
sha256 = "{sha256("secret")}"
roles = ["chat", "feedback", "read"]
requests_per_minute = 60
dollars_per_day = 5
expires = 2030-01-31
models = ["shop"]
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "gateway.toml"
    file.write_text(text)
    return file


def test_a_whole_file_is_read(tmp_path: Path):
    config = load_config(write(tmp_path, FULL))
    assert (config.server.host, config.server.port) == ("127.0.0.1", 9000)
    assert config.policy is not None
    assert (config.policy.url, config.policy.price) == ("http://127.0.0.1:8000/v1", Price(input=0.1, output=0.4))
    assert [entry.name for entry in config.orchestrators] == ["shop", "support"]
    assert config.keys[0].expires == datetime(2030, 1, 31, tzinfo=UTC)


def test_relative_paths_are_taken_from_the_files_folder(tmp_path: Path):
    config = load_config(write(tmp_path, FULL))
    assert config.store.url == str(tmp_path / "data/traces.db")
    assert config.store.spool_folder == tmp_path / "data/traces.db.spool"
    assert config.orchestrators[0].catalog == tmp_path / "catalog.toml"


def test_urls_of_files_are_resolved_and_those_of_servers_left(tmp_path: Path):
    sqlite = load_config(write(tmp_path, '[store]\nurl = "sqlite:///data/t.db"')).store
    assert sqlite.url == f"sqlite:///{tmp_path}/data/t.db"
    postgres = load_config(write(tmp_path, '[store]\nurl = "postgresql://u:p@host/db"\nspool = "sp"')).store
    assert (postgres.url, postgres.spool_folder) == ("postgresql://u:p@host/db", tmp_path / "sp")


def test_the_environment_goes_over_the_file_field_by_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOOLORCH_GATEWAY__SERVER__PORT", "9001")
    monkeypatch.setenv("TOOLORCH_GATEWAY__POLICY__URL", "http://other:8000/v1")
    monkeypatch.setenv("TOOLORCH_GATEWAY__SERVER__CORS_ORIGINS", '["https://b.example"]')
    config = load_config(write(tmp_path, FULL))
    assert (config.server.port, config.server.cors_origins) == (9001, ("https://b.example",))
    assert config.policy is not None
    assert (config.policy.url, config.policy.price.input) == ("http://other:8000/v1", 0.1)


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOOLORCH_GATEWAY__POLICY__URL", "http://other:8000/v1")
    config = load_config()
    assert config.policy is not None
    assert config.policy.url == "http://other:8000/v1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server\n", "not valid TOML"),
        ("[server]\nprot = 1", "server.prot: there is no prot; did you mean port?"),
        ("[sever]\nport = 1", "sever: there is no sever; did you mean server?"),
        ("[server]\nport = 70000", r"server.port: .*65535 \(it is 70000\)"),
        ("[policy]\nmodel = 'p'", "policy.url is missing"),
        ("[policy]\nurl = 'localhost:8000'", "policy.url: .*give one such as http"),
        ("[policy]\nurl = 'http://x/v1'\nreplicas = ['x:8000']", "policy.replicas: .*give one such as http"),
        ("[policy]\nurl = 'http://x/v1'\nreplicas = ['http://a/v1', 'http://a/v1/']", "http://a/v1 is named twice"),
        ("[policy]\nurl = 'http://x/v1'\nprice = {inputs = 1}", "policy.price.inputs: .*did you mean input"),
        ("[[orchestrators]]\nname = 'a'", "orchestrators.0: .*give app"),
        ("[[orchestrators]]\napp = 'shop'", "orchestrators.0: .*module:attribute"),
        ("[[orchestrators]]\napp = 'a:b'\ncatalog = 'c'", "app stands alone"),
        ("[[orchestrators]]\napp = 'a:b'\nrendering = 'select'", "rendering is for orchestrators that are built in"),
        ("[[orchestrators]]\napp = 'a:b'\nbudget = { turns = 2 }", "budget is for .*: set it where a:b is made"),
        (
            "[[orchestrators]]\ncatalog = 'c'\nrendering = 'select'\nsystem_prompt = 'Hi.'",
            "no place for a system_prompt",
        ),
        ("[[orchestrators]]\ntools = ['search']", "orchestrators.0 .*needs a policy"),
        ("[[orchestrators]]\napp = 'a:b'\n[[orchestrators]]\napp = 'a:c'", "two are named 'orchestrator'"),
        ("[[keys]]\nname = 'a'", "keys.0: .*either sha256 .* or variable"),
        ("[[keys]]\nname = 'a'\nsha256 = 'abc'", "keys.0.sha256: "),
        ("[[keys]]\nname = 'a'\nvariable = 'K'\nroles = ['root']", "keys.0.roles.0: .*'chat'"),
        ("[server]\nhost = '0.0.0.0'", r"add \[\[keys\]\], listen on 127.0.0.1, or say server.open = true"),
        ("[server]\ncors_origins = ['*']", "name the origins"),
        ("[store]\nretention_days = 0", "store.retention_days: "),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_local_search_needs_a_retrieval_service(tmp_path: Path):
    text = "[policy]\nurl = 'http://x/v1'\n[[orchestrators]]\ntools = ['local_search']"
    with pytest.raises(ConfigError, match=r"add \[retrieval\] url"):
        load_config(write(tmp_path, text))


def test_a_secret_does_not_get_into_an_error(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "[[keys]]\nname = 'a'\nsha256 = 'my-secret-key'"))
    assert "my-secret-key" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TOOLORCH_GATEWAY__SEVER__PORT", "1", "TOOLORCH_GATEWAY__SEVER__PORT: there is no sever"),
        ("TOOLORCH_GATEWAY__SERVER__PROT", "1", "server.prot: there is no prot"),
        ("TOOLORCH_GATEWAY__SERVER__PORT", "many", "server.port: "),
        ("TOOLORCH_GATEWAY__KEYS", "[", "written as JSON"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        load_config()


def test_beyond_loopback_without_keys_it_has_to_be_said(tmp_path: Path):
    assert load_config(write(tmp_path, "[server]\nhost = '0.0.0.0'\nopen = true")).server.open
    keyed = "[server]\nhost = '0.0.0.0'\n" + FULL.partition("cors_origins")[2].partition("\n")[2]
    assert load_config(write(tmp_path, keyed)).keys


def test_a_key_in_a_variable_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("APP_KEY", raising=False)
    config = load_config(write(tmp_path, "[[keys]]\nname = 'a'\nvariable = 'APP_KEY'"))
    with pytest.raises(ConfigError, match=r"keys.0 \(a\).variable: .*APP_KEY is not set"):
        Keyring(config)
    monkeypatch.setenv("APP_KEY", "secret")
    assert Keyring(config).identify("Bearer secret").name == "a"


def test_the_same_key_twice(tmp_path: Path):
    entry = f"[[keys]]\nname = '{{}}'\nsha256 = '{sha256('s')}'\n"
    with pytest.raises(ConfigError, match="is the same key as a's"):
        Keyring(load_config(write(tmp_path, entry.format("a") + entry.format("b"))))


def checked(folder: Path, text: str) -> Any:
    return CliRunner().invoke(app, ["serve", "gateway", "--check", str(write(folder, text))])


def test_the_command_checks_a_file(tmp_path: Path):
    (tmp_path / "catalog.toml").write_text("[[tools]]\nname = 'search'\nlatency = 1.0")
    good = checked(tmp_path, FULL.replace("shop.agents:support", "tests.gateway_apps:graph"))
    assert good.exit_code == 0, good.output
    assert "the configuration is right" in good.output
    bad = CliRunner().invoke(app, ["serve", "gateway", "--check", str(write(tmp_path, "[server]\nport = -1"))])
    assert bad.exit_code == 1
    assert "server.port" in bad.output
    missing = CliRunner().invoke(app, ["serve", "gateway", "--check", str(tmp_path / "none.toml")])
    assert "cannot be read" in missing.output


BUILT_IN = "[policy]\nurl = 'http://x/v1'\n[[orchestrators]]\nname = 'shop'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BUILT_IN + "catalog = 'none.toml'", "orchestrators.0 (shop).catalog: Cannot read the catalogue"),
        (BUILT_IN + "tools = ['serach']", "orchestrators.0 (shop).tools: There is no tool 'serach'"),
        (BUILT_IN + "tools_file = 'none.json'", "orchestrators.0 (shop).tools_file: "),
        (
            "[[orchestrators]]\napp = 'no_such_module:graph'",
            ".app 'no_such_module:graph': the module",
        ),
        ("[[orchestrators]]\napp = 'tests.gateway_apps:number'", "it is a int: give a compiled LangGraph orchestrator"),
        ("[policy]\nurl = 'http://x/v1'\nkey_variable = 'NO_SUCH_KEY'", "policy.key_variable: "),
        ("[[keys]]\nname = 'a'\nvariable = 'NO_SUCH_KEY'", "keys.0 (a).variable: "),
        ("[store]\nurl = 'mysql://host/db'", "store.url: "),
        ("[policy]\nurl = 'http://'", "policy.url: "),
    ],
)
def test_the_command_refuses_what_could_not_start(tmp_path: Path, text: str, message: str):
    done = checked(tmp_path, text)
    assert done.exit_code == 1
    assert message in done.output
