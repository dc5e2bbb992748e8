"""Is the world worth learning? What the scripted expert solves and spends, against the strongest specialist always.

python -m examples.shop.oracle
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from examples.shop import scripted
from examples.shop.enquiries import Enquiry, held_out, solved
from examples.shop.synthesis import Policy, default_world, perform
from toolorch_integrations.entry import Specialist
from toolorch_integrations.prompt import specialist_messages
from toolorch_serving.simulated.tokens import count, count_messages

_MOST_TURNS = 8


@dataclass(slots=True)
class Total:
    """What a policy brought: enquiries asked and solved, and the specialists' dollars."""

    asked: int = 0
    solved: int = 0
    dollars: float = 0.0


def measure(policy: Policy, enquiries: Sequence[Enquiry]) -> Total:
    """Let a scripted policy answer all enquiries in the demo's world; dollars come from real token counts."""
    place = default_world()
    total = Total()
    for enquiry in enquiries:
        messages = [{"role": "system", "content": place.system}, {"role": "user", "content": enquiry.text}]
        answer = None
        for _ in range(_MOST_TURNS):
            reply = policy(messages, place.schemas())
            messages.append(reply)
            if not reply.get("tool_calls"):
                answer = reply["content"]
                break
            for call in reply["tool_calls"]:
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                result = perform(place, messages, name, arguments, enquiry.shop)
                entry = place.view.resolve(name)
                if isinstance(entry, Specialist):
                    read = count_messages(specialist_messages(entry, messages, json.loads(arguments).get("task")))
                    total.dollars += entry.price.dollars(read, count(result))
                    answer = result if json.loads(arguments).get("final") else None
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            if answer is not None:
                break
        total.asked += 1
        total.solved += solved(enquiry, answer or "")
    return total


def compare(enquiries: Sequence[Enquiry]) -> Table:
    """Return a table of the scripted expert and the two baselines."""
    arms = {
        "scripted expert": measure(scripted.expert, enquiries),
        "strongest always": measure(scripted.strongest, enquiries),
        "random choice": measure(scripted.RandomChoice(), enquiries),
    }
    table = Table(title=f"The world: {len(enquiries)} held-out enquiries, the specialists' dollars")
    for column in ("policy", "solved", "dollars", "dollars / strongest"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, total in arms.items():
        share = total.dollars / arms["strongest always"].dollars
        table.add_row(name, f"{total.solved / total.asked:.1%}", f"{total.dollars:.5f}", f"{share:.1%}")
    return table


if __name__ == "__main__":
    Console().print(compare(held_out(330)))
