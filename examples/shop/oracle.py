"""Is the world worth learning? What the scripted expert solves and spends, beside the baselines.

python -m examples.shop.oracle
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.shop import scripted
from examples.shop.catalog import catalog
from examples.shop.enquiries import Enquiry, held_out, solved
from examples.shop.synthesis import Policy, default_world, perform
from toolorch_integrations.entry import Specialist
from toolorch_integrations.prompt import specialist_messages
from toolorch_rl.evaluation import Arm, Trials, headroom, named, share_of
from toolorch_rl.rewards import RunFeatures
from toolorch_serving.simulated.tokens import count, count_messages

_MOST_TURNS = 8


def measure(name: str, policy: Policy, enquiries: Sequence[Enquiry]) -> Arm:
    """Let a scripted policy answer all enquiries in the demo's world; dollars come from real token counts."""
    return Arm(name, tuple(_run(policy, enquiry)[1] for enquiry in enquiries))


def baselines(enquiries: Sequence[Enquiry]) -> list[Arm]:
    """Try the baselines on all enquiries: a search with the enquiry itself, then the specialist that the rule names.

    The oracle among them knows which specialist solves an enquiry. It does not know what the app's tools can do without
    one, so the scripted expert may spend less.
    """

    def ask(specialist: Specialist, enquiry: Enquiry) -> tuple[str, float, float]:
        answer, run = _run(_searching(specialist.name), enquiry)
        return answer, run.dollars or 0.0, run.seconds or 0.0

    return Trials(enquiries, catalog().specialists, solved, key=_name).run(ask)


def compare(enquiries: Sequence[Enquiry]) -> Table:
    """Return a table of the scripted expert and the baselines."""
    arms = [measure("scripted expert", scripted.expert, enquiries), *baselines(enquiries)]
    strongest = named(arms, "always-strongest")
    table = Table(title=f"The world: {len(enquiries)} held-out enquiries, the specialists' dollars")
    for column in ("policy", "solved", "dollars an enquiry", "dollars / strongest"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for arm in arms:
        table.add_row(arm.name, arm.solved.text(), arm.dollars.text(), f"{share_of(arm, strongest) or 0.0:.1%}")
    table.caption = f"The oracle spends {headroom(arms) or 0.0:.0%} of always-strongest's dollars."
    return table


def _run(policy: Policy, enquiry: Enquiry) -> tuple[str, RunFeatures]:
    """Let a policy answer an enquiry; return the answer and the run."""
    place = default_world()
    messages = [{"role": "system", "content": place.system}, {"role": "user", "content": enquiry.text}]
    calls: Counter[str] = Counter()
    answer, dollars, seconds = None, 0.0, 0.0
    for _ in range(_MOST_TURNS):
        reply = policy(messages, place.schemas())
        messages.append(reply)
        if not reply.get("tool_calls"):
            answer = reply["content"]
            break
        for call in reply["tool_calls"]:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            result = perform(place, messages, name, arguments, enquiry.shop)
            calls[name] += 1
            entry = place.view.resolve(name)
            if isinstance(entry, Specialist):
                read = count_messages(specialist_messages(entry, messages, json.loads(arguments).get("task")))
                dollars += entry.price.dollars(read, count(result))
                seconds += entry.latency or 0.0
                answer = result if json.loads(arguments).get("final") else None
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        if answer is not None:
            break
    return answer or "", RunFeatures(_name(enquiry), dict(calls), solved(enquiry, answer or ""), dollars, seconds)


def _searching(name: str) -> Policy:
    """Return a policy that searches with the request itself, then hands it to one specialist."""

    def policy(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        reply = scripted.strongest(messages, tools)
        for call in reply["tool_calls"]:
            if call["function"]["name"] == "expert":
                call["function"]["name"] = name
        return reply

    return policy


def _name(enquiry: Enquiry) -> str:
    return f"{enquiry.kind} {enquiry.shop}: {enquiry.text}"


if __name__ == "__main__":
    Console().print(compare(held_out(330)))
