"""Resumes a graph that waits for a person, in a process of its own: `python -m tests.resume_worker SETUP`.

SETUP is JSON: `url` (a checkpointer's), `server` (base URL of the policy), `thread`, `decisions` and `log` (a file to
which the destructive tool appends a line whenever it runs), and perhaps `store` (where to capture to).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from toolorch_integrations import Budget, Catalog, Price, Tool
from toolorch_integrations.capture import capture
from toolorch_integrations.langgraph import ChatPolicy, create_orchestrator, ledger_of


def destructive_tool(log: str) -> Callable[[str], str]:
    def delete_project(name: str) -> str:
        """Delete a project."""
        with Path(log).open("a") as lines:
            lines.write(f"{name}\n")
        return f"{name} is gone"

    return delete_project


@contextlib.contextmanager
def checkpointer(url: str) -> Iterator[BaseCheckpointSaver[Any]]:
    if url.startswith("postgresql:"):
        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()
            yield saver
    else:
        with SqliteSaver.from_conn_string(url) as saver:
            yield saver


def build(server: str, log: str, saver: BaseCheckpointSaver[Any]) -> Any:
    return create_orchestrator(
        ChatPolicy(model="scripted", base_url=server, price=Price(input=1)),
        [destructive_tool(log)],
        catalog=Catalog([Tool(name="delete_project", price=Price(call=0.5))]),
        budget=Budget(dollars=2.0, turns=6),
        checkpointer=saver,
    )


def main(setup: dict[str, Any]) -> dict[str, Any]:
    config = {"configurable": {"thread_id": setup["thread"]}}
    with checkpointer(setup["url"]) as saver, contextlib.ExitStack() as stack:
        agent = build(setup["server"], setup["log"], saver)
        if "store" in setup:
            stack.enter_context(capture(setup["store"]))
        result = agent.invoke(Command(resume={"decisions": setup["decisions"]}), config)
    return {
        "answer": result["messages"][-1].text,
        "interrupted": "__interrupt__" in result,
        "ledger": [call.to_dict() for call in ledger_of(result)],
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))  # noqa: T201
