"""Plots of an evaluation, as PNG files: solved against dollars, and where calls went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolorch_rl.evaluation.arms import Arm, front
from toolorch_rl.evaluation.errors import EvaluationError
from toolorch_rl.metrics import Estimate, Routing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 20
"""Names that the plot of shares shows; the others are one bar together."""


def plot_front(path: str | Path, arms: Sequence[Arm], title: str = "Solved against dollars") -> Path:
    """Plot arms as points with their intervals, and the front of those that no other dominates.

    Args:
        path: PNG file to write.
        arms: The policy, several of them, baselines.
        title: Above the plot.

    Raises:
        EvaluationError: matplotlib is not installed, or no arm knows its dollars.
    """
    known = [arm for arm in arms if arm.dollars.value is not None and arm.solved.value is not None]
    if not known:
        raise EvaluationError("there is nothing to plot: no run has known dollars, so give prices")
    figure, axes = _figure(7.0, 5.0)
    best = front(known)
    axes.plot(
        [arm.dollars.value or 0.0 for arm in best],
        [arm.solved.value or 0.0 for arm in best],
        "--",
        color="0.6",
        zorder=1,
    )
    for arm in known:
        axes.errorbar(
            [arm.dollars.value or 0.0],
            [arm.solved.value or 0.0],
            xerr=_reach(arm.dollars),
            yerr=_reach(arm.solved),
            fmt="o" if arm in best else "x",
            capsize=3,
            label=arm.name,
        )
    axes.set(xlabel="dollars a request", ylabel="solved", title=title, ylim=(-0.02, 1.04))
    axes.legend(loc="lower right", fontsize="small")
    return _saved(figure, path)


def plot_routing(path: str | Path, routing: Routing, title: str = "Where calls went") -> Path:
    """Plot shares of calls as bars with their intervals, greatest first.

    Raises:
        EvaluationError: matplotlib is not installed, or there are no calls.
    """
    known = [(name, share) for name, share in routing.shares.items() if share.value is not None]
    if not known:
        raise EvaluationError("there is nothing to plot: no run has a call")
    shown, others = known[:MOST_BARS], known[MOST_BARS:]
    if others:
        rest = sum(share.value or 0.0 for _, share in others)
        shown.append((f"{len(others)} others", Estimate(rest)))
    figure, axes = _figure(7.0, 1.2 + 0.28 * len(shown))
    names = [name for name, _ in shown]
    axes.barh(names, [share.value or 0.0 for _, share in shown], color="tab:blue")
    for place, (_, share) in enumerate(shown):
        axes.errorbar([share.value or 0.0], [place], xerr=_reach(share), fmt="none", ecolor="0.3", capsize=3)
    axes.invert_yaxis()
    entropy = routing.entropy.value or 0.0
    collapsed = ", collapsed" if routing.collapsed else ""
    axes.set(
        xlabel="share of calls", xlim=(0, 1.0), title=f"{title} ({entropy:.2f} of {routing.most:.2f} bits{collapsed})"
    )
    return _saved(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EvaluationError("plots need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no display, whatever the user's settings say
    axes: Any = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def _saved(figure: Figure, path: str | Path) -> Path:
    figure.savefig(path, dpi=150, format="png")
    return Path(path)


def _reach(estimate: Estimate) -> list[list[float]] | None:
    """Return an interval as distances from its value, as matplotlib takes it."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]
