"""Calls of the `select` rendering in LlamaIndex, and what a run's messages say of its context.

What a call brought stands among its tool message's marks, so that a run goes on in any process that has its context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.schema import BaseNode, NodeWithScore
from llama_index.core.tools import AsyncBaseTool, FunctionTool, ToolMetadata, ToolOutput
from workflows.runtime.types.results import WaitingForEvent

from toolorch_integrations.call_step import Result, specialist_calls
from toolorch_integrations.entry import AnyEntry
from toolorch_integrations.ledger import Call
from toolorch_integrations.llamaindex.messages import contributions_of, conversation_of
from toolorch_integrations.llamaindex.tool_call import RECORD, CallSite, ToolCallStep, WantedCall
from toolorch_integrations.llamaindex.tools import as_tools, call_tool, text_output
from toolorch_integrations.select import SEARCH
from toolorch_integrations.select_functions import SelectFunctions, Standing, text_argument
from toolorch_integrations.select_run import AskChosen, SelectRun
from toolorch_integrations.specialist import SpecialistCaller
from toolorch_integrations.steps import adrive, awithin


def standing_of(messages: Sequence[ChatMessage]) -> Standing:
    """Return where a run stands, from the conversation with the steps of this run."""
    return Standing.of(conversation_of(messages), contributions_of(messages))


def app_tool(given: Any) -> AsyncBaseTool:
    """Return what an app gives for search or interpreter as a LlamaIndex tool.

    Raises:
        CatalogError: It has no usable name, or does not take a single text.
    """
    (tool,) = as_tools([_of_retriever(given) if isinstance(given, BaseRetriever) else given])
    argument_of(tool)
    return tool


def argument_of(tool: AsyncBaseTool) -> str:
    """Return the name of a tool's text argument.

    Raises:
        CatalogError: It does not take a single text.
    """
    return text_argument(tool.metadata.get_name(), tool.metadata.get_parameters_dict())


class SelectCallStep(ToolCallStep):
    """One call of a function: a specialist works, and for all but `answer` a tool of the app carries it out.

    Args:
        wanted: What the policy or a person wrote.
        site: Where the call is made; its tools are the app's by function.
        functions: The functions of the orchestrator.
    """

    def __init__(self, wanted: WantedCall, site: CallSite, functions: SelectFunctions) -> None:
        super().__init__(wanted, site)
        self.functions = functions
        self.standing = standing_of(site.messages)
        self.timeout = 0.0

    def upper_bound(self, entry: AnyEntry) -> float:
        """Return the bound of the chosen specialist for its prompt, and the price of the app's tool."""
        assert isinstance(self.run, SelectRun)
        return self.functions.upper_bound(self.run, self.name, entry, self.standing)

    def request(self, entry: AnyEntry, timeout: float) -> SpecialistCaller:
        """Return the chosen specialist."""
        self.timeout = timeout
        return self.functions.callers[self.name][entry.name].limited_to(self.run.view.aliases)

    async def perform(self, request: SpecialistCaller) -> ToolOutput:
        """Ask the chosen specialist, and let the app's tool carry out what it wrote."""

        async def step(wanted: Any) -> Any:
            if isinstance(wanted, AskChosen):
                return await request.acall(self.standing.asking(wanted.prompt))
            tool = self.tools[self.name]
            try:
                called = call_tool(tool, {argument_of(tool): wanted.text}, self.context)
                return _result_of(await awithin(wanted.timeout, called))
            except WaitingForEvent:
                raise
            except Exception as error:
                return error

        result = await adrive(self.functions.call(self.name, self.standing, self.timeout), step)
        worked = bool(result.contribution) or result.final
        output = text_output(result.text, self.name, self.arguments, error=not worked)
        output.raw_output = result.artifact()
        return output

    def read(self, entry: AnyEntry, raw: ToolOutput) -> Result:
        """Return what came of the call."""
        return Result(self.observed(raw), calls=specialist_calls(raw.raw_output))

    def finish(self, result: Result, raw: ToolOutput | None, calls: Sequence[Call]) -> ToolOutput:
        """Return the observation as the tool's output, with the calls and what joins the context."""
        output = super().finish(result, raw, calls)
        output.raw_input[RECORD]["context"] = raw.raw_output["context"] if raw is not None and result.ok else {}
        return output


def _of_retriever(retriever: BaseRetriever) -> FunctionTool:
    def search(query: str) -> list[NodeWithScore]:
        return retriever.retrieve(query)

    async def asearch(query: str) -> list[NodeWithScore]:
        return await retriever.aretrieve(query)

    schema = FunctionTool.from_defaults(search).metadata.fn_schema
    metadata = ToolMetadata(name=SEARCH, description="Search the documents.", fn_schema=schema)
    return FunctionTool(search, metadata, async_fn=asearch)


def _result_of(output: ToolOutput) -> Any:
    """Return what the app's tool gave: the text of nodes, a list of texts, JSON, or its content.

    Values are JSON here because a LangChain tool makes JSON of them: so both faces show the policy the same.
    """
    if output.is_error:
        raise output.exception or RuntimeError(output.content)
    raw = output.raw_output
    if isinstance(raw, list):
        if raw and all(isinstance(item, (NodeWithScore, BaseNode)) for item in raw):
            return [item.get_content() for item in raw]
        if all(isinstance(item, str) for item in raw):
            return raw
    if isinstance(raw, (Mapping, list, tuple, int, float)):
        try:
            return json.dumps(raw, ensure_ascii=False)
        except (TypeError, ValueError):
            return str(raw)
    return output.content
