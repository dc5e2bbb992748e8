"""A trace as a tree for the terminal."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from toolorch_integrations.node import Node
from toolorch_integrations.trace import Trace, TraceCall

SHORT = 160
"""Characters of a text that are shown, unless all is wanted."""

_COLOURS = {"system": "magenta", "user": "cyan", "assistant": "green", "tool": "yellow"}


def trace_panel(trace: Trace, *, full: bool = False, ids: bool = False) -> RenderableType:
    """Return header, message tree and totals of a trace.

    Args:
        trace: What to show.
        full: Whether texts are shown whole.
        ids: Whether token ids are shown.
    """
    view = _View(trace, full, ids)
    return Group(view.header(), view.tree(), view.totals())


class _View:
    def __init__(self, trace: Trace, full: bool, ids: bool) -> None:
        self._trace = trace
        self._full = full
        self._ids = ids
        self._calls: dict[int | None, list[TraceCall]] = {}
        for entry in trace.calls:
            self._calls.setdefault(entry.node, []).append(entry)

    def header(self) -> Text:
        trace = self._trace
        text = Text()
        text.append(trace.id, "bold").append(f"  {trace.status.value}")
        text.append("  exact ids" if trace.exact else "  inexact: not all ids are the server's", "dim")
        started = datetime.fromtimestamp(trace.started).strftime("%Y-%m-%d %H:%M:%S")
        facts = {
            "started": started,
            "app": " ".join(filter(None, (trace.app, trace.framework and f"({trace.framework})"))),
            "thread": trace.thread_id,
            "policy": ", ".join(trace.policy_versions),
            "preferences": _pairs(trace.preferences),
            "budget": _pairs(trace.budget),
            "lost": _pairs(trace.metadata.get("dropped")),
            "error": trace.error,
            "answer": self._short(trace.answer),
        }
        for name, value in facts.items():
            if value:
                text.append(f"\n{name:<12}", "dim").append(value)
        for entry in trace.rewards:
            text.append(f"\n{'reward':<12}", "dim").append(f"{_pairs(entry.values)}  {entry.verifier}")
        for one in trace.feedback:
            score = "" if one.score is None else f" {one.score:g}"
            text.append(f"\n{'feedback':<12}", "dim").append(f"{one.name}{score} {one.comment}")
        return text

    def tree(self) -> Tree:
        root = Tree("messages", style="dim", guide_style="dim")
        # One message after the other stays on one level; only branches go deeper.
        stack = [(index, root) for index in reversed(self._trace.graph.children(None))]
        while stack:
            index, branch = stack.pop()
            node = self._trace.graph.nodes[index]
            leaf = branch.add(self._message(node), style="none")
            for entry in self._calls.get(index, []):
                leaf.add(self._call(entry), style="none")
            children = self._trace.graph.children(index)
            if len(children) > 1:
                branches = [branch.add(Text(f"branch after {index}", "dim")) for _ in children]
            else:
                branches = [branch] * len(children)
            stack.extend(reversed(list(zip(children, branches, strict=True))))
        for entry in self._calls.get(None, []):
            root.add(self._call(entry), style="none")
        return root

    def totals(self) -> Text:
        totals = self._trace.totals
        return Text(
            f"{totals.turns} turns, {totals.calls} calls, {totals.input_tokens} tokens in, "
            f"{totals.output_tokens} out, ${totals.dollars:.6f}, {totals.seconds:.2f} s",
            "bold",
        )

    def _message(self, node: Node) -> Text:
        text = Text()
        text.append(f"{node.index} ", "dim").append(node.role or "prompt", _COLOURS.get(node.role, ""))
        if node.turn is not None and node.turn.agent:
            text.append(f" [{node.turn.agent}]", "dim")
        message = node.message
        if message.get("reasoning"):
            text.append("  (" + self._short(str(message["reasoning"])) + ")", "italic dim")
        content = message.get("content")
        if content:
            text.append("  " + self._short(content if isinstance(content, str) else str(content)))
        for call in message.get("tool_calls") or []:
            function = call.get("function") or {}
            text.append(f"  {function.get('name')}", "bold").append(f"({self._short(str(function.get('arguments')))})")
        text.append("\n    " + self._numbers(node), "dim")
        if self._ids and node.ids:
            text.append(f"\n    {node.token_ids.tolist()}", "dim")
        return text

    def _numbers(self, node: Node) -> str:
        parts = [f"+{len(node.token_ids)} tokens" if node.exact else "no ids"]
        if node.turn is not None:
            if node.logprobs is not None and len(node.logprobs):
                parts.append(f"log-probability {node.logprobs.mean():.2f}, lowest {node.logprobs.min():.2f}")
            parts += filter(None, (node.turn.model, node.turn.finish_reason))
            parts += [f"${node.turn.dollars:.6f}", f"{node.turn.seconds:.2f} s"]
            if not node.turn.is_policy:
                parts.append("not the policy")
        return ", ".join(parts)

    def _call(self, entry: TraceCall) -> Text:
        call = entry.call
        text = Text()
        text.append(f"{call.kind.value} ", "dim").append(call.name, "bold")
        text.append(f" {call.status.value}", "green" if call.status.value == "ok" else "red")
        text.append(f"  ${call.dollars:.6f}, {call.seconds:.2f} s", "dim")
        if call.input_tokens or call.output_tokens:
            text.append(f", {call.input_tokens} tokens in, {call.output_tokens} out", "dim")
        if call.error:
            text.append(f"  {self._short(call.error)}", "red")
        if entry.result:
            text.append(f"\n    {self._short(entry.result)}")
            if entry.result_length > len(entry.result):
                text.append(f" (cut, {entry.result_length} characters)", "dim")
        return text

    def _short(self, text: str) -> str:
        if self._full:
            return text
        text = " ".join(text.split())
        return text if len(text) <= SHORT else text[:SHORT] + "..."


def _pairs(values: object) -> str:
    if not isinstance(values, dict):
        return ""
    return ", ".join(f"{key} {value}" for key, value in values.items() if value not in (None, {}, ""))
