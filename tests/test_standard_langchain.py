"""LangChain's standard suites: for the chat model against scripted replies and real servers, for specialists as tools.

The suites ask for things that a tiny model does not know, such as `magic_function(3)`. So a model is taught the
suite's own questions: they are recorded while a script answers them, and learnt by heart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ChatModelIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, ToolsUnitTests

from tests import tiny_policy as tiny
from tests.doubles import specialist
from toolorch_integrations import Endpoint, Price, Specialist
from toolorch_integrations.langgraph import ChatPolicy, SpecialistTool, as_specialist
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_serving.embedded import EmbeddedServer
from toolorch_serving.process import PolicyServerError
from toolorch_serving.vllm import VllmServer

LESSONS = "TOOLORCH_TEST_LESSONS"
"""Environment variable: file to which the scripted suite writes what was asked and answered."""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "magic_function": {"input": 3},
    "magic_function_no_args": {},
    "greeting_generator": {"answer_style": "pirate"},
    "my_adder_tool": {"a": 1, "b": 2},
    "get_weather": {"location": "San Francisco, CA"},
    "Joke": {"setup": "Why?", "punchline": "Because."},
    "joke": {"setup": "Why?", "punchline": "Because."},
}


def teacher(request: Mapping[str, Any]) -> Reply:
    """Answer the suite's questions."""
    last = request["messages"][-1]
    if request.get("response_format"):
        return Reply(json.dumps(ARGUMENTS["Joke"]))
    tools = [schema["function"]["name"] for schema in request.get("tools", [])]
    if not tools or last["role"] == "tool":
        return Reply("It is done.")
    choice = request.get("tool_choice")
    wanted = choice["function"]["name"] if isinstance(choice, dict) else tools[0]
    if wanted == "unicode_customer":
        name = last["content"].split("'")[1]
        return Reply(calls=[(wanted, {"customer_name": name, "description": "Technology"})])
    return Reply(calls=[(wanted, ARGUMENTS[wanted])])


def lesson(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return an exchange as a policy server renders it."""
    reply = teacher(request)
    calls = [json.dumps({"name": name, "arguments": given}, ensure_ascii=False) for name, given in reply.calls]
    return {
        "messages": [_message(message) for message in request["messages"]],
        "completion": reply.content or "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls),
        "tools": request.get("tools", []),
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    kept: dict[str, Any] = {"role": message["role"], "content": content}
    if isinstance(content, list):
        kept["content"] = "\n".join(part["text"] for part in content if part["type"] == "text")
    if message.get("tool_calls"):
        kept["tool_calls"] = [
            {"function": {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return kept


# --- the chat model ---


class TestChatPolicyUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatPolicy]:
        return ChatPolicy

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "policy", "base_url": "http://127.0.0.1:1/v1"}


class Standard(ChatModelIntegrationTests):
    """What the servers under test have in common."""

    endpoint: tuple[str, str]

    @pytest.fixture
    def model(self, request: pytest.FixtureRequest, server: tuple[str, str]) -> BaseChatModel:
        self.endpoint = server
        extra = getattr(request, "param", None) or {}
        return self.chat_model_class(**{**self.standard_chat_model_params, **self.chat_model_params, **extra})

    @property
    def chat_model_class(self) -> type[ChatPolicy]:
        return ChatPolicy

    @property
    def chat_model_params(self) -> dict[str, Any]:
        url, name = self.endpoint
        return {"model": name, "base_url": url, "temperature": 0}  # what was learnt by heart is said greedily

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestChatPolicyOnAScript(Standard):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Iterator[tuple[str, str]]:
        with ScriptedPolicy(teacher) as scripted:
            yield scripted.url, "scripted"
        if LESSONS in os.environ:
            Path(os.environ[LESSONS]).write_text(json.dumps([lesson(request) for request in scripted.requests]))


@pytest.fixture(scope="module")
def taught_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny policy that knows the suite's questions by heart."""
    folder = tmp_path_factory.mktemp("standard")
    recorded = folder / "lessons.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "OnAScript"]
    done = subprocess.run(
        command, env={**os.environ, LESSONS: str(recorded)}, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout
    distinct = {json.dumps(item, sort_keys=True): item for item in json.loads(recorded.read_text())}
    lessons = tuple(tiny.Lesson(**item) for item in distinct.values())
    return tiny.build(folder / "policy", lessons)


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestChatPolicyOnTheEmbeddedEngine(Standard):
    """The embedded engine cannot constrain what the policy samples: no forced calls, no enforced schemas."""

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return False

    @pytest.mark.xfail(reason="the suite forces this call whatever `has_tool_choice` says", strict=True)
    def test_structured_few_shot_examples(self, model: BaseChatModel, my_adder_tool: BaseTool) -> None:
        super().test_structured_few_shot_examples(model, my_adder_tool)

    @pytest.mark.xfail(reason="the suite forces this call whatever `has_tool_choice` says", strict=True)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:  # type: ignore[override]
        super().test_unicode_tool_call_integration(model)

    def test_a_unicode_call_that_is_not_forced(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model, force_tool_call=False)

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, taught_policy: Path) -> Iterator[tuple[str, str]]:
        with EmbeddedServer(taught_policy, dtype="float32", progress=False) as running:
            yield running.url, running.name


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(300)
class TestChatPolicyOnVllm(Standard):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, taught_policy: Path) -> Iterator[tuple[str, str]]:
        try:
            running = VllmServer(taught_policy, dtype="float32", max_model_len=2048, progress=False)
        except PolicyServerError as error:
            if os.environ.get("TOOLORCH_REQUIRE_VLLM") == "1":
                raise
            pytest.skip(f"vLLM is missing: {error}")
        with running:
            yield running.url, running.name


# --- specialists as tools ---


class _Specialist:
    """What the suites want to know of a specialist as a tool."""

    @property
    def tool_constructor(self) -> type[BaseTool] | BaseTool:
        return SpecialistTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        endpoint = Endpoint(url="http://127.0.0.1:1/v1", model="coder")
        return {"specialist": Specialist(name="coder", description="Writes Python.", endpoint=endpoint)}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"task": "What is 2 + 2?", "final": False}


class TestSpecialistToolUnit(_Specialist, ToolsUnitTests):
    pass


class TestSpecialistOfTasksUnit(_Specialist, ToolsUnitTests):
    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        endpoint = Endpoint(url="http://127.0.0.1:1/v1", model="coder")
        return {"specialist": Specialist(name="coder", context="task", endpoint=endpoint)}


class TestSpecialistTool(_Specialist, ToolsIntegrationTests):
    @pytest.fixture
    def tool(self) -> Iterator[BaseTool]:
        with ScriptedPolicy(["Four."]) as server:
            yield SpecialistTool(specialist(server))


class TestSpecialistToolWithAModel(_Specialist, ToolsIntegrationTests):
    @pytest.fixture
    def tool(self) -> Iterator[BaseTool]:
        with ScriptedPolicy(["Four."]) as server:
            model = ChatPolicy(model="coder", base_url=server.url)
            yield as_specialist(model, "coder", "Writes Python.", price=Price(input=1))
