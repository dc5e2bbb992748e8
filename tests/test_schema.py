from __future__ import annotations

import enum
import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from langchain_core.tools import tool
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field, ValidationError

from toolorch_integrations.schema import argument_problem, canonical_parameters, validation_problem


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    """One thing."""

    name: str
    colour: Colour = Colour.RED
    parts: list[Item] = []


class Order(BaseModel):
    """Order things."""

    items: list[Item] = Field(description="What to order.", min_length=1)
    note: str | None = Field(None, description="Anything else.")
    express: bool | int = False
    kind: Literal["gift", "own"]


def test_references_titles_and_nulls_are_gone():
    text = json.dumps(canonical_parameters(Order.model_json_schema()))
    assert not any(word in text for word in ("$ref", "$defs", "title", "null", "Order things"))


def test_the_canonical_form_to_the_byte():
    canonical = canonical_parameters(Order.model_json_schema())
    assert json.dumps(canonical["properties"]["note"]) == '{"type": "string", "description": "Anything else."}'
    assert json.dumps(canonical["properties"]["items"]) == (
        '{"type": "array", "description": "What to order.", "minItems": 1, "items": {"type": "object", '
        '"description": "One thing.", "properties": {"name": {"type": "string"}, '
        '"colour": {"type": "string", "enum": ["red", "blue"], "default": "red"}, '
        '"parts": {"type": "array", "default": [], "items": {"type": "object", "description": "Item"}}}, '
        '"required": ["name"]}}'
    )
    assert canonical["required"] == ["items", "kind"]


def test_key_order_does_not_matter():
    schema = Order.model_json_schema()
    assert json.dumps(canonical_parameters(_turned(schema))) != ""
    one, other = canonical_parameters(schema), canonical_parameters(_turned(schema))
    assert one == other
    assert list(one["properties"]["note"]) == list(other["properties"]["note"])


def _turned(value: Any) -> Any:
    """Write each mapping backwards, but leave the parameters' own order, which means something."""
    if isinstance(value, list):
        return [_turned(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: {k: _turned(v) for k, v in value[key].items()} if key == "properties" else _turned(value[key])
        for key in reversed(value)
    }


def test_both_frameworks_render_a_function_alike():
    def book(city: str, nights: int = 2, breakfast: bool | None = None) -> str:
        """Book a room."""
        return city

    chain = tool(book).tool_call_schema.model_json_schema()  # type: ignore[union-attr]
    index = FunctionTool.from_defaults(book).metadata.get_parameters_dict()
    assert json.dumps(canonical_parameters(chain)) == json.dumps(canonical_parameters(index))


def test_a_function_without_parameters():
    assert canonical_parameters({}) == {"type": "object", "properties": {}}
    assert canonical_parameters({"type": "object"}) == {"type": "object", "properties": {}}


def test_what_takes_anything_has_no_more_to_say():
    schema = {"properties": {"a": True, "b": {"anyOf": [True, {"type": "null"}]}, "c": {"items": True}}}
    anything = {"a": {}, "b": {}, "c": {"items": True}}
    assert canonical_parameters(schema) == {"type": "object", "properties": anything}
    assert canonical_parameters({"properties": None}) == {"type": "object", "properties": {}}


def test_null_alone_stays():
    nothing = {"anyOf": [{"type": "null"}]}
    assert canonical_parameters({"properties": {"a": nothing}})["properties"] == {"a": nothing}


def test_a_parameter_named_like_a_keyword_stays():
    schema = {"type": "object", "properties": {"title": {"type": "string"}, "$ref": {"type": "string"}}}
    assert list(canonical_parameters(schema)["properties"]) == ["title", "$ref"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"kind": "gift", "items": [{"name": "a"}]}, None),
        ({"kind": "gift", "items": [{"name": "a", "colour": "green"}]}, "items[0].colour: 'green' is not one of"),
        ({"items": [{"name": "a"}]}, "'kind' is a required property"),
        ({"kind": "gift", "items": []}, "items: "),
        ({"kind": "gift", "items": "all"}, "items: 'all' is not of type 'array'"),
        ("gift", "'gift' is not of type 'object'"),
        (None, "None is not of type 'object'"),
    ],
)
def test_a_problem_names_the_place(arguments: Any, problem: str | None):
    found = argument_problem(Order.model_json_schema(), arguments)
    assert found is None if problem is None else problem in (found or "")


class Limits(BaseModel):
    above: int | None = Field(None, gt=0)
    code: str = Field("abc", min_length=2, max_length=3)
    even: int = Field(2, multiple_of=2)
    tags: set[str] = set()
    inner: Inner | None = None


class Inner(BaseModel, extra="forbid"):
    a: int = 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"above": 0}, "above: 0 is less than or equal to the minimum of 0"),
        ({"above": "x"}, "above: 'x' is not of type 'integer'"),
        ({"above": None}, None),
        ({"code": "a"}, "code: 'a' is too short"),
        ({"code": "abcd"}, "code: 'abcd' is too long"),
        ({"even": 3}, "even: 3 is not a multiple of 2"),
        ({"tags": ["a", "a"]}, "tags: ['a', 'a'] has non-unique elements"),
        ({"inner": {"b": 1}}, "inner: Additional properties are not allowed ('b' was unexpected)"),
        ({"inner": None}, None),
    ],
)
def test_limits_that_the_prompt_leaves_out_count_all_the_same(arguments: dict[str, Any], problem: str | None):
    assert argument_problem(Limits.model_json_schema(), arguments) == problem


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/Gone"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"type": "string", "pattern": r"\p{L}"},
        {"type": "colour"},
        {"minLength": "2"},
        {"enum": 3},
        {"pattern": 5},
        {"$ref": "#/properties/a"},
    ],
)
def test_a_schema_that_cannot_be_read_says_nothing(schema: dict[str, Any]):
    assert argument_problem({"type": "object", "properties": {"a": schema}}, {"a": "b"}) is None


def test_the_words_of_pydantic_in_the_same_form():
    with pytest.raises(ValidationError) as raised:
        Order.model_validate({"items": [{"name": 1}]})
    assert validation_problem(raised.value.errors()) == (
        "items.0.name: Input should be a valid string\nkind: Field required"
    )


LEAF = st.sampled_from(
    [str, int, float, bool, list[str], dict[str, int], str | None, Literal["a", "b"], Colour, Item, Annotated[int, 3]]
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), LEAF, max_size=4))
def test_any_models_schema_stays_valid_and_is_stable(fields: dict[str, Any]):
    from pydantic import create_model

    schema = create_model("Any", **{name: (kind, ...) for name, kind in fields.items()}).model_json_schema()
    canonical = canonical_parameters(schema)
    Draft202012Validator.check_schema(canonical)
    assert canonical_parameters(canonical) == canonical
    assert set(canonical["properties"]) == set(fields)
