"""Results as plots."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import Comparison, median
from benchmarks.tables import SIZES

_OURS, _OTHERS, _RUNS = "#2a6f97", "#b8b8b8", "#333333"
_BARS = ("backups", "restores", "verification", "encryption")
# The same picture for the same figures, so that only what has changed is committed.
mpl.rcParams["svg.hashsalt"] = "benchmarks"
mpl.rcParams["svg.fonttype"] = "none"


def draw(path: Path, comparisons: Sequence[Comparison]) -> None:
    """One group as an SVG: bars side by side, or lines over the size."""
    figure = _bars(comparisons) if comparisons[0].group in _BARS else _lines(comparisons)
    figure.savefig(path, metadata={"Date": None})


def _bars(comparisons: Sequence[Comparison]) -> Figure:
    figure = Figure(figsize=(9, 1 + 0.32 * sum(len(each.runs) + 2 for each in comparisons)))
    figure.set_layout_engine("constrained")
    heights = [len(each.runs) for each in comparisons]
    axes = figure.subplots(len(comparisons), squeeze=False, height_ratios=heights)
    for axis, comparison in zip(axes[:, 0], comparisons, strict=True):
        _bar_each(axis, comparison)
    return figure


def _bar_each(axis: Axes, comparison: Comparison) -> None:
    for name, runs in comparison.runs.items():
        color = _OURS if name.startswith("ours") or "encrypted" in name else _OTHERS
        axis.barh(name, median(runs, "seconds"), color=color)
        axis.plot([run.seconds for run in runs], [name] * len(runs), ".", color=_RUNS, ms=3)
    axis.invert_yaxis()
    axis.set_title(f"{comparison.group}, {comparison.size:,} MB of SQL", loc="left")
    axis.set_xlabel("seconds (bar: median, dots: runs)")
    axis.spines[["top", "right"]].set_visible(False)


def _lines(comparisons: Sequence[Comparison]) -> Figure:
    figure = Figure(figsize=(9, 3.6))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    _line_each(left, comparisons, "seconds", "seconds")
    _line_each(right, comparisons, "peak_mib", "largest process, MiB")
    left.set_yscale("log")
    right.set_ylim(bottom=0)
    left.legend(frameon=False)
    return figure


def _line_each(axis: Axes, comparisons: Sequence[Comparison], what: str, label: str) -> None:
    for name in comparisons[0].runs:
        sizes = [each.size for each in comparisons]
        axis.plot(sizes, [median(each.runs[name], what) for each in comparisons], "o-", label=name)
    axis.set_xscale("log")
    axis.set_xlabel(SIZES[comparisons[0].group])
    axis.set_ylabel(label)
    axis.spines[["top", "right"]].set_visible(False)
