"""Tools and models without a coroutine, called from an event loop by either face: none holds its own threads."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, SimpleChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.tools import Tool as LangChainTool
from langchain_core.tools import tool as langchain_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.tools import BaseTool as LlamaIndexTool
from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
from pydantic import Field

from tests.doubles import chat_policy
from tests.select_world import FULL, QUESTION, Policy, catalog_of, specialist_says
from toolorch_integrations import Price, langgraph, llamaindex
from toolorch_integrations.langgraph import SelectTools, create_orchestrator, ledger_of
from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM, to_langchain
from toolorch_integrations.testing import Reply, ScriptedPolicy
from toolorch_integrations.workers import in_worker

ASK: dict[str, Any] = {"messages": [("user", "Go.")]}
WORKER = "toolorch-call"
"""Name of the threads that nobody waits for."""


def where(text: str = "") -> str:
    """Say which thread this is."""
    return threading.current_thread().name


class Where(BaseTool):
    """A tool of a class of its own, as many of LangChain's integrations are."""

    name: str = "where"
    description: str = "Say which thread this is."

    def _run(self, text: str = "") -> str:
        return where()


class PlainWhere(LlamaIndexTool):
    """A tool of LlamaIndex that is no asynchronous one."""

    @property
    def metadata(self) -> ToolMetadata:
        return ToolMetadata(name="where", description="Say which thread this is.")

    def __call__(self, given: Any) -> ToolOutput:
        return ToolOutput(content=where(), tool_name="where", raw_input={}, raw_output=where())


async def in_langgraph(policy: ScriptedPolicy, tools: list[Any], **options: Any) -> str:
    agent = create_orchestrator(chat_policy(policy), tools, **options)
    return str((await agent.ainvoke(ASK))["messages"][-1].text)


async def in_llamaindex(policy: ScriptedPolicy, tools: list[Any], **options: Any) -> str:
    llm = PolicyLLM(model=policy.model, api_base=policy.url, max_retries=0)
    return str(await OrchestratorAgent(tools=tools, llm=llm, **options).run(user_msg="Go."))


def observations(policy: ScriptedPolicy) -> list[str]:
    """Return what the policy was told of its calls."""
    return [m["content"] for m in policy.requests[-1]["messages"] if m["role"] == "tool"]


STRUCTURED = langchain_tool(where)
ONE_TEXT = LangChainTool("where", where, "Say which thread this is.")


@pytest.mark.parametrize(
    ("face", "tool"),
    [
        (in_langgraph, where),
        (in_langgraph, ONE_TEXT),
        (in_langgraph, Where()),
        (in_llamaindex, where),
        (in_llamaindex, STRUCTURED),
        (in_llamaindex, Where(args_schema=STRUCTURED.args_schema)),
        (in_llamaindex, PlainWhere()),
        (in_langgraph, to_langchain(FunctionTool.from_defaults(where))),
    ],
    ids=["function", "Tool", "BaseTool", "other function", "StructuredTool", "other BaseTool", "plain", "converted"],
)
async def test_a_tool_without_a_coroutine_is_kept_off_the_loops_threads(face: Any, tool: Any) -> None:
    argument = "__arg1" if tool is ONE_TEXT else "input" if isinstance(tool, PlainWhere) else "text"
    with ScriptedPolicy([Reply(calls=[("where", {argument: "x"})]), "Done."]) as policy:
        assert await face(policy, [tool]) == "Done."
    assert observations(policy) == [WORKER]


async def test_a_tool_with_a_coroutine_runs_on_the_loop() -> None:
    async def awhere(text: str = "") -> str:
        """Say which thread this is."""
        return where()

    here = threading.current_thread().name
    both = StructuredTool.from_function(where, awhere, name="where")
    for face, tool in ((in_langgraph, both), (in_llamaindex, both), (in_llamaindex, awhere)):
        name = "awhere" if tool is awhere else "where"
        with ScriptedPolicy([Reply(calls=[(name, {"text": "x"})]), "Done."]) as policy:
            await face(policy, [tool])
        assert observations(policy) == [here]


class SyncModel(BaseChatModel):
    """A chat model as many apps write their own: it has no coroutine."""

    @property
    def _llm_type(self) -> str:
        return "sync"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(where()))])


class PlainModel(SimpleChatModel):
    """A chat model of LangChain's older kind."""

    @property
    def _llm_type(self) -> str:
        return "plain"

    def _call(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        return where()


class AsyncModel(SyncModel):
    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._generate(messages)


class SyncLLM(CustomLLM):
    """A LlamaIndex LLM as many apps write their own: its coroutine is the base's, which calls it on the loop."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=where())

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        yield self.complete(prompt)


class AsyncLLM(SyncLLM):
    @llm_chat_callback()
    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return ChatResponse(message=ChatMessage(where()))


class SyncEngine(CustomQueryEngine):
    def custom_query(self, query_str: str) -> str:
        return where()


class AsyncEngine(SyncEngine):
    async def acustom_query(self, query_str: str) -> str:
        return where()


@pytest.mark.parametrize(
    ("face", "source", "on_loop"),
    [
        (in_langgraph, SyncModel(), False),
        (in_langgraph, PlainModel(), False),
        (in_langgraph, AsyncModel(), True),
        (in_llamaindex, SyncLLM(), False),
        (in_llamaindex, AsyncLLM(), True),
        (in_llamaindex, SyncEngine(), False),
        (in_llamaindex, AsyncEngine(), True),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_specialist_without_a_coroutine_is_kept_off_the_loop(face: Any, source: Any, on_loop: bool) -> None:
    module = langgraph if face is in_langgraph else llamaindex
    expert = module.as_specialist(source, "expert", "Knows all.", price=Price(call=1.0))
    script: list[Reply | str] = [Reply(calls=[("expert", {"task": "x"})]), "Done."]
    with ScriptedPolicy(script) as policy:
        assert await face(policy, [], specialists=[expert]) == "Done."
    assert observations(policy) == [threading.current_thread().name if on_loop else WORKER]


class HungModel(SyncModel):
    hang: Callable[[], str]

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.hang()))])


class HungLLM(SyncLLM):
    hang: Callable[[], str] = Field(exclude=True)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self.hang())


@pytest.mark.parametrize(("face", "model"), [(in_langgraph, HungModel), (in_llamaindex, HungLLM)])
@pytest.mark.usefixtures("narrow_loop")
async def test_a_hung_specialist_is_given_up_and_the_loop_goes_on(
    face: Any, model: Any, hang: Callable[[], str]
) -> None:
    module = langgraph if face is in_langgraph else llamaindex
    expert = module.as_specialist(model(hang=hang), "expert", "Knows all.", timeout=0.2)
    script: list[Reply | str] = [
        Reply(calls=[("expert", {"task": "x"})] * 3),
        Reply(calls=[("where", {"text": "x"})]),
        "Done.",
    ]
    with ScriptedPolicy(script) as policy:
        assert await face(policy, [where], specialists=[expert]) == "Done."
    assert observations(policy) == ["Error: expert did not answer within 0.2 s. Try another tool."] * 3 + [WORKER]


async def test_the_apps_tool_of_the_select_rendering_is_kept_off_the_loops_threads() -> None:
    seen: list[str] = []

    def python(code: str) -> str:
        """Run Python."""
        seen.append(where())
        return "tents: 12"

    with Policy(*FULL[1:]) as policy, ScriptedPolicy(specialist_says) as server:
        agent = create_orchestrator(
            chat_policy(policy.server),
            catalog=catalog_of(server),
            rendering="select",
            select=SelectTools(interpreter=python),
        )
        await agent.ainvoke({"messages": [("user", QUESTION)]})
    assert seen == [WORKER]


@pytest.fixture
async def narrow_loop() -> Any:
    """Give the loop one thread of its own."""
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    yield
    executor.shutdown(wait=False)


@pytest.fixture
def hang() -> Iterator[Callable[[], str]]:
    released = threading.Event()

    def hang() -> str:
        """Hang."""
        released.wait(60)
        return "late"

    yield hang
    released.set()


@pytest.mark.parametrize("face", [in_langgraph, in_llamaindex])
@pytest.mark.usefixtures("narrow_loop")
async def test_a_healthy_tool_is_called_after_hung_ones(face: Any, hang: Callable[[], str]) -> None:
    script = [Reply(calls=[("hang", {})] * 6), Reply(calls=[("where", {"text": "x"})]), "Done."]
    with ScriptedPolicy(script) as policy:
        assert await face(policy, [hang, where], tool_timeout=0.2) == "Done."
    assert observations(policy) == ["Error: hang did not answer within 0.2 s. Try another tool."] * 6 + [WORKER]


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        "from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator\n"
        "async def go(server):\n"
        "    policy = ChatPolicy(model='m', base_url=server.url)\n"
        "    agent = create_orchestrator(policy, [hang], tool_timeout=0.1)\n"
        "    return (await agent.ainvoke({'messages': [('user', 'Go.')]}))['messages'][-1].text\n",
        "from toolorch_integrations.llamaindex import OrchestratorAgent, PolicyLLM\n"
        "async def go(server):\n"
        "    llm = PolicyLLM(model='m', api_base=server.url)\n"
        "    return await OrchestratorAgent(tools=[hang], llm=llm, tool_timeout=0.1).run(user_msg='Go.')\n",
    ],
    ids=["langgraph", "llamaindex"],
)
def test_a_hung_tool_does_not_keep_the_loop_and_the_process_alive(run: str) -> None:
    program = f"""
import asyncio, threading
from toolorch_integrations.testing import Reply, ScriptedPolicy

def hang() -> str:
    "Hang."
    threading.Event().wait()
    return ""

{run}
with ScriptedPolicy([Reply(calls=[("hang", {{}})]), "Sorry."]) as server:
    print(asyncio.run(go(server)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "Sorry."


async def test_a_tool_in_a_thread_sees_its_context_and_may_ask_a_person() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    def ask_colour() -> str:
        """Ask for a colour."""
        return f"{interrupt('Which colour?')} for {variable.get()}"

    config: Any = {"configurable": {"thread_id": "1"}}
    variable.set("Ann")
    with ScriptedPolicy([Reply(calls=[("ask_colour", {})]), "Done."]) as policy:
        agent = create_orchestrator(chat_policy(policy), [ask_colour], checkpointer=InMemorySaver())
        waiting = await agent.ainvoke(ASK, config)
        assert waiting["__interrupt__"][0].value == "Which colour?"
        result = await agent.ainvoke(Command(resume="blue"), config)
    assert observations(policy) == ["blue for Ann"]
    assert ledger_of(result).counts() == {"ask_colour": 1}


@pytest.mark.parametrize("face", [in_langgraph, in_llamaindex])
async def test_a_stop_iteration_is_an_error_like_another(face: Any) -> None:
    def first() -> str:
        """Take the first of none."""
        return str(next(iter(())))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(in_worker(first), 30)
    with ScriptedPolicy([Reply(calls=[("first", {})]), "Sorry."]) as policy:
        assert await face(policy, [first]) == "Sorry."
    assert "StopIteration" in observations(policy)[0]
