from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from toolorch_integrations import (
    Catalog,
    CatalogError,
    CatalogFilter,
    Endpoint,
    MissingVariableError,
    Price,
    Specialist,
    Tool,
    UnknownEntryError,
)

SEARCH = Tool(name="search", description="Search documents.", price=Price(call=0.01))
CODER = Specialist(name="coder", description="Writes Python code.", price=Price(input=1, output=2), latency=3)
PROVER = Specialist(name="prover", description="Proves theorems of algebra.", capabilities=("math",))
WRITER = Specialist(name="writer", description="Writes letters.")
CATALOG = Catalog([SEARCH, CODER, PROVER, WRITER])

TOML = """
[[tools]]
name = "search"
description = "Search documents."
price = { call = 0.01 }

[[specialists]]
name = "coder"
description = "Writes Python code."
price = { input = 1, output = 2 }
latency = 3
[specialists.endpoint]
url = "${CODER_URL}/v1"
model = "${CODER_MODEL:-coder-7b}"
key_variable = "CODER_KEY"
"""


def test_a_catalogue_keeps_its_order_and_finds_entries_by_name():
    assert [entry.name for entry in CATALOG] == ["search", "coder", "prover", "writer"]
    assert CATALOG["coder"] is CODER
    assert "coder" in CATALOG
    assert "nobody" not in CATALOG
    assert len(CATALOG) == 4
    assert CATALOG.tools == [SEARCH]
    assert CATALOG.specialists == [CODER, PROVER, WRITER]
    assert len(CATALOG.with_entries([Tool(name="add")])) == 5


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UnknownEntryError, match=r"'nobody'.*'coder'"):
        CATALOG["nobody"]


def test_two_entries_of_one_name_are_refused():
    with pytest.raises(CatalogError, match="named 'coder'"):
        Catalog([CODER, Tool(name="coder")])


@pytest.mark.parametrize("fallback", ["search", "nobody"])
def test_a_fallback_must_be_a_specialist(fallback: str):
    with pytest.raises(CatalogError, match=f"fallback of 'a' names '{fallback}'"):
        Catalog([SEARCH, Specialist(name="a", fallback=fallback)])


@pytest.mark.parametrize("name", ["", "two words", "a" * 65, "sum!", "é"])
def test_names_that_servers_refuse_are_refused_early(name: str):
    with pytest.raises(ValidationError, match="name"):
        Tool(name=name)


@pytest.mark.parametrize("price", [{"input": -1}, {"output": -1}, {"call": -0.1}, {"per_call": 1}])
def test_a_price_is_not_negative_and_has_no_unknown_field(price: dict[str, float]):
    with pytest.raises(ValidationError):
        Price.model_validate(price)


def test_dollars_of_a_price():
    assert Price(input=2, output=10, call=0.5).dollars(1_000_000, 100_000) == pytest.approx(3.5)
    assert Price(call=0.5).dollars(calls=3) == 1.5
    assert Price().dollars(10**9, 10**9) == 0


def test_a_file_with_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CODER_URL", "http://127.0.0.1:8000")
    path = tmp_path / "catalog.toml"
    path.write_text(TOML)
    coder = Catalog.from_file(path).specialists[0]
    assert coder.endpoint is not None
    assert (coder.endpoint.url, coder.endpoint.model) == ("http://127.0.0.1:8000/v1", "coder-7b")
    monkeypatch.setenv("CODER_MODEL", "coder-32b")
    assert Catalog.from_file(path).specialists[0].endpoint.model == "coder-32b"  # type: ignore[union-attr]


def test_a_json_file_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CODER_URL", "http://127.0.0.1:8000")
    (tmp_path / "catalog.toml").write_text(TOML)
    (tmp_path / "catalog.json").write_text(
        json.dumps(
            {
                "tools": [{"name": "search", "description": "Search documents.", "price": {"call": 0.01}}],
                "specialists": [
                    {
                        "name": "coder",
                        "description": "Writes Python code.",
                        "price": {"input": 1, "output": 2},
                        "latency": 3,
                        "endpoint": {"url": "${CODER_URL}/v1", "model": "coder-7b", "key_variable": "CODER_KEY"},
                    }
                ],
            }
        )
    )
    read = [list(Catalog.from_file(tmp_path / name)) for name in ("catalog.toml", "catalog.json")]
    assert read[0] == read[1]


def test_a_missing_variable_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CODER_URL", raising=False)
    path = tmp_path / "catalog.toml"
    path.write_text(TOML)
    with pytest.raises(MissingVariableError, match=r"specialists\[0\]\.endpoint\.url.*CODER_URL"):
        Catalog.from_file(path)


def test_a_missing_key_is_named_when_it_is_needed(monkeypatch: pytest.MonkeyPatch):
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", model="m", key_variable="CODER_KEY")
    monkeypatch.delenv("CODER_KEY", raising=False)
    with pytest.raises(MissingVariableError, match="CODER_KEY"):
        endpoint.key()
    monkeypatch.setenv("CODER_KEY", "k")
    assert endpoint.key() == "k"
    assert Endpoint(url="http://127.0.0.1:1/v1", model="m").key() is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tool": []}, "unknown table 'tool'"),
        ({"tools": [{"name": "a", "price": {"call": "dear"}}]}, r"tools\[a\]\.price\.call"),
        ({"tools": [{"description": "nameless"}]}, r"tools\[0\]\.name"),
        ({"specialists": [{"name": "a", "endpoint": {"url": "u"}}]}, r"specialists\[a\]\.endpoint\.model"),
        ({"specialists": [{"name": "a", "retries": 99}]}, r"specialists\[a\]\.retries"),
        ({"tools": ["search"]}, r"tools\[0\]"),
        ({"tools": {"name": "search"}}, "tools"),
        ({"tools": "search"}, "tools"),
        ({"tools": 3}, "tools"),
    ],
)
def test_a_faulty_catalogue_names_entry_and_field(data: dict[str, object], message: str):
    with pytest.raises(CatalogError, match=message):
        Catalog.from_dict(data)


@pytest.mark.parametrize(
    ("name", "text"), [("c.toml", "[[tools"), ("c.json", "{"), ("c.json", "[1]"), ("c.json", '"text"')]
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, text: str):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CatalogError, match=name):
        Catalog.from_file(path)
    with pytest.raises(CatalogError, match="absent"):
        Catalog.from_file(tmp_path / "absent.toml")


def test_allow_and_deny():
    assert CATALOG.view(CatalogFilter(allow=frozenset({"search", "coder"}))).names == ("search", "coder")
    assert CATALOG.view(CatalogFilter(deny=frozenset({"coder"}))).names == ("search", "prover", "writer")
    both = CatalogFilter(allow=frozenset({"search", "coder"}), deny=frozenset({"coder"}))
    assert CATALOG.view(both).names == ("search",)
    assert CATALOG.view(CatalogFilter(allow=frozenset())).names == ()


def test_aliases_hide_the_name_and_resolve_back():
    view = CATALOG.view(CatalogFilter(aliases={"coder": "expert-1"}))
    assert view.names == ("search", "expert-1", "prover", "writer")
    assert view.resolve("expert-1") is CODER
    assert view.alias("coder") == "expert-1"
    assert "coder" not in json.dumps(view.schemas())
    with pytest.raises(UnknownEntryError, match="'coder'"):
        view.resolve("coder")
    with pytest.raises(UnknownEntryError, match="does not show"):
        CATALOG.view(CatalogFilter(deny=frozenset({"coder"}))).alias("coder")


def test_an_alias_may_be_the_name_of_a_hidden_entry_but_not_of_a_shown_one():
    swapped = CATALOG.view(CatalogFilter(aliases={"coder": "prover", "prover": "coder"}))
    assert swapped.resolve("coder") is PROVER
    with pytest.raises(CatalogError, match="'search'"):
        CATALOG.view(CatalogFilter(aliases={"coder": "search"}))
    hidden = CatalogFilter(aliases={"coder": "search"}, deny=frozenset({"search"}))
    assert CATALOG.view(hidden).resolve("search") is CODER


def test_an_alias_that_servers_refuse_is_refused():
    with pytest.raises((CatalogError, ValidationError), match="two words"):
        CATALOG.view(CatalogFilter(aliases={"coder": "two words"}))


def test_prices_and_latencies_of_one_request_are_shown():
    view = CATALOG.view(CatalogFilter(prices={"coder": Price(input=9, output=99)}, latencies={"coder": 0.5}))
    described = view.schemas()[1]["function"]["description"]
    assert described == "Writes Python code. ($9 in, $99 out per million tokens; about 0.5 s)"
    assert CODER.price == Price(input=1, output=2)


def test_a_request_adds_to_what_is_hidden_and_renamed():
    own = CatalogFilter(deny=frozenset({"a"}), allow=frozenset({"a", "b"}), aliases={"a": "x", "b": "y"}, shortlist=2)
    assert CatalogFilter().over(own) == own
    given = CatalogFilter(deny=frozenset({"c"}), aliases={"b": "z"}, allow=None)
    merged = given.over(own)
    assert merged == CatalogFilter(deny=frozenset({"a", "c"}), aliases={"a": "x", "b": "z"}, shortlist=2)


def test_a_filter_within_another_shows_no_more():
    own = CatalogFilter(deny=frozenset({"a"}), allow=frozenset({"a", "b"}), shortlist=2)
    wide = CatalogFilter(deny=frozenset(), allow=frozenset({"b", "c"}), shortlist=9)
    assert wide.within(own) == CatalogFilter(deny=frozenset({"a"}), allow=frozenset({"b"}), shortlist=2)
    assert CatalogFilter(allow=None, shortlist=None).within(own) == own
    assert CatalogFilter(shortlist=1).within(CatalogFilter()) == CatalogFilter(shortlist=1)


@pytest.mark.parametrize("field", ["allow", "deny", "aliases", "prices", "latencies"])
def test_a_filter_that_names_nobody_says_which_field(field: str):
    value: object = {
        "allow": {"nobody"},
        "deny": {"nobody"},
        "aliases": {"nobody": "x"},
        "prices": {"nobody": Price()},
        "latencies": {"nobody": 1.0},
    }[field]
    with pytest.raises(UnknownEntryError, match=f"{field} names 'nobody'"):
        CATALOG.view(CatalogFilter.model_validate({field: value}))


def test_a_shortlist_keeps_tools_and_the_nearest_specialists():
    algebra = CATALOG.view(CatalogFilter(shortlist=1), "Prove this theorem of algebra, please")
    assert algebra.names == ("search", "prover")
    assert CATALOG.view(CatalogFilter(shortlist=1), "Some Python code for MATH").names == ("search", "coder")
    assert CATALOG.view(CatalogFilter(shortlist=2), "nothing fits").names == ("search", "coder", "prover")
    assert CATALOG.view(CatalogFilter(shortlist=9), "").names == ("search", "coder", "prover", "writer")


def test_a_snapshot_holds_what_was_shown_and_no_endpoint():
    catalog = Catalog(
        [
            Specialist(
                name="coder",
                endpoint=Endpoint(url="http://10.0.0.1/v1", model="m", headers={"X-Key": "hidden"}),
                system_prompt="hidden",
            )
        ]
    )
    view = catalog.view(CatalogFilter(aliases={"coder": "a"}, prices={"coder": Price(input=5)}))
    assert view.snapshot() == [{"alias": "a", "name": "coder", "price": {"input": 5.0}, "kind": "specialist"}]
    assert view.fingerprint() == catalog.view(view_filter()).fingerprint()
    assert view.fingerprint() != catalog.view().fingerprint()
    assert json.loads(json.dumps(view.snapshot())) == view.snapshot()


def view_filter() -> CatalogFilter:
    return CatalogFilter(aliases={"coder": "a"}, prices={"coder": Price(input=5)})


def test_the_most_that_a_call_can_cost_counts_every_output_token():
    endpoint = Endpoint(url="http://127.0.0.1:1/v1", model="m", max_tokens=1000)
    specialist = Specialist(name="a", price=Price(input=1, output=10, call=0.5), endpoint=endpoint)
    assert specialist.upper_bound(2000) == pytest.approx(0.002 + 0.01 + 0.5)
