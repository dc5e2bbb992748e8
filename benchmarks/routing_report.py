"""What `routing_rounds.py` reports: tables, bars, and learning curves over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from examples.routing.measure import Worth
from examples.routing.requests import SETTINGS

CLAIM = "careful"
"""The setting that the bars are about."""


FILE_WIDTH = 120
"""Characters of a line where the report goes into a file."""


def console() -> Console:
    """Return where the report goes."""
    terminal = Console(soft_wrap=True, highlight=False)
    return terminal if terminal.is_terminal else Console(soft_wrap=True, highlight=False, width=FILE_WIDTH)


def dominated(point: Worth, others: Sequence[Worth]) -> list[str]:
    """Return who is at least as good as a point in solved, dollars and seconds, and better in one."""

    def figures(item: Worth) -> tuple[float, float, float]:
        return -(item.solved.value or 0.0), item.dollars, item.seconds

    mine = figures(point)
    return [
        item.name
        for item in others
        if figures(item) != mine and all(a <= b for a, b in zip(figures(item), mine, strict=True))
    ]


def table(title: str, rows: Sequence[Worth]) -> Table:
    """Return figures as a table."""
    made = Table(title=title)
    for column in ("policy", "solved", "dollars / strongest", "seconds", "reward", "reward / best"):
        made.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        made.add_row(*row.row())
    return made


def verdicts(known: dict[str, dict[str, Worth]], found: dict[str, dict[str, Worth]]) -> dict[str, Any]:
    """Return each bar with what was reached."""
    mine, strongest = found["learnt"][CLAIM], known[CLAIM]["always-strongest"]
    best = mine.reward / (mine.reward_share.value or 1.0)
    chance = known[CLAIM]["random"].reward
    gaps = {name: (part[CLAIM].reward - chance) / (best - chance) for name, part in found.items() if name != "base"}
    points = [found["learnt"][setting] for setting in SETTINGS]
    beaten = {
        setting: dominated(
            found["learnt"][setting], [item for item in known[setting].values() if item.name != "oracle"]
        )
        for setting in SETTINGS
    }
    own = {
        setting: dominated(point, [other for other in points if other is not point])
        for setting, point in zip(SETTINGS, points, strict=True)
    }
    return {
        "oracle's share of dollars (at most 25 %)": known[CLAIM]["oracle"].dollar_share.value,
        "solved, less always-strongest (at least 0)": (mine.solved.value or 0) - (strongest.solved.value or 0),
        "share of always-strongest's dollars (at most 30 %)": mine.dollar_share.value,
        "share of the best possible reward (at least 95 %)": mine.reward_share.value,
        "gap between random routing and the best that is recovered (replay alone: at least 50 %)": gaps,
        "settings that a baseline dominates (none)": {key: value for key, value in beaten.items() if value},
        "settings that another setting's point dominates (none)": [key for key, value in own.items() if value],
    }


def summed_up(work: Path, strongest: float) -> list[str]:
    """Draw the learning curves of all seeds in a folder; return each figure's mean with a 95 % interval over seeds.

    Args:
        work: Holds a folder with `result.json` for each seed.
        strongest: Mean dollars of always-strongest.
    """
    results = [json.loads(file.read_text()) for file in sorted(work.glob("seed-*/result.json"))]
    if not results:
        return ["there are no results"]
    lines = [f"{len(results)} seeds, mean and 95 % interval over seeds (Student's t):"]
    for arm in ("base", "replay", "learnt"):
        for figure in ("solved", "dollar_share", "reward_share"):
            values = [result["arms"][arm][CLAIM][figure]["value"] for result in results]
            lines.append(f"  {arm}, {figure.replace('_', ' ')}: {_over_seeds(values)}")
    if any(result["curve"] for result in results):
        _draw_curves([result["curve"] for result in results], strongest, work / "curve.png")
    _draw_settings(results, work / "settings.png")
    return [*lines, f"written to {work}"]


def _over_seeds(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}] ({', '.join(f'{value:.3f}' for value in values)})"


def _draw_curves(curves: Sequence[Sequence[dict[str, float]]], strongest: float, file: Path) -> None:
    figure, axes = _figure()
    for number, curve in enumerate(curves):
        minutes = [point["seconds"] / 60 for point in curve]
        for name, color, scale in (("solved", "C0", 1.0), ("dollars", "C1", strongest)):
            label = {"solved": "solved", "dollars": "dollars / always-strongest"}[name] if not number else None
            axes.plot(minutes, [point[name] / scale for point in curve], color=color, alpha=0.6, label=label)
    title = f"Online rounds (sampled, all settings), {len(curves)} seeds"
    axes.set(xlabel="minutes, capture and replay included", ylim=(0, 1.05), title=title)
    axes.legend()
    _save(figure, file)


def _draw_settings(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw what the policy takes and solves in each setting, beside the baselines in `CLAIM`: means over seeds."""
    arms = [(setting, "C0", [result["arms"]["learnt"][setting] for result in results]) for setting in SETTINGS]
    rules = results[0]["baselines"][CLAIM]
    arms += [(rule, "C7", [result["baselines"][CLAIM][rule] for result in results]) for rule in rules]
    points: dict[tuple[str, float, float, str], list[str]] = {}
    for name, color, items in arms:
        dollars = float(np.mean([item["dollar_share"]["value"] for item in items]))
        seconds = float(np.mean([item["seconds"] for item in items]))
        solved = float(np.mean([item["solved"]["value"] for item in items]))
        points.setdefault((color, round(dollars, 3), round(seconds, 2), f"{solved:.1%}"), []).append(name)
    figure, axes = _figure()
    for number, ((color, dollars, seconds, solved), names) in enumerate(points.items()):
        axes.plot(dollars, seconds, "o", color=color)
        # Settings lie close together: their names stand higher and lower in turn, and those of the baselines below.
        beside, side = ((6, -10 if number % 2 else 4), "left") if color == "C0" else ((0, -14), "center")
        label = f"{', '.join(names)}: {solved}"
        axes.annotate(label, (dollars, seconds), beside, textcoords="offset points", color=color, fontsize=9, ha=side)
    title = f"One policy, five settings (blue): share solved, mean of {len(results)} seeds"
    axes.set(xlabel="dollars / always-strongest", ylabel="seconds a request", xlim=(-0.25, 1.2), title=title)
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    _save(figure, file)


def _figure() -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(7, 4))


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=120)
