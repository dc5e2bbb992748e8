"""Templates of tasks, by pattern. Any of them fits any domain that has a family of entities."""

from toolorch_rl.synthesis.templates import chain, conditional, loop, mixed, parallel, sequential, single
from toolorch_rl.synthesis.templates.common import Template
from toolorch_rl.tasks import Pattern

TEMPLATES: dict[Pattern, tuple[Template, ...]] = {
    "single": single.TEMPLATES,
    "sequential": sequential.TEMPLATES,
    "parallel": parallel.TEMPLATES,
    "conditional": conditional.TEMPLATES,
    "loop": loop.TEMPLATES,
    "chain": chain.TEMPLATES,
    "mixed": mixed.TEMPLATES,
}

__all__ = ["TEMPLATES", "Template"]
