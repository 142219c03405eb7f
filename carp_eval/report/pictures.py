"""Plots for a model card: scores beside published ones, and how a training went.

matplotlib comes with the extra `report`. The same numbers give the same bytes, so that a picture that did not change is
not pushed again.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carp_eval import files
from carp_eval.pretrain import journal
from carp_eval.report import chosen
from carp_eval.report.chosen import Bar
from carp_eval.results import Result

if TYPE_CHECKING:
    from collections.abc import Generator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HINT = "there are no plots: matplotlib is not installed, pip install 'carp-eval[report]' brings it"

# Okabe and Ito's colours, which people who see colours otherwise can tell apart; marks and lines differ too.
OURS, THEIRS, THIRD = "#0072B2", "#D55E00", "#009E73"
GREY = "#555555"
DPI = 150
WIDTH = 8.0
LINE = 0.34
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    # What other packages wrote is shown as it is: no formula in a name.
    "text.parse_math": False,
}


def available() -> bool:
    """Tell whether pictures can be made."""
    return find_spec("matplotlib") is not None


def scores(results: Sequence[Result], path: Path) -> Path | None:
    """Draw every result's main scores with their 95 % intervals, beside what was published.

    Args:
        results: Of one model.
        path: Where the PNG goes.

    Returns:
        The path; None where there is nothing to draw or nothing to draw with.

    Raises:
        StorageError: If the file cannot be written.
    """
    bars = chosen.bars(results)
    if not bars or not available():
        return None
    with _figure(WIDTH, 1.1 + LINE * len(bars)) as figure:
        _draw_scores(figure.subplots(), bars)
        figure.legend(loc="outside upper center", ncols=3, handletextpad=0.3, columnspacing=1.2)
        return _save(figure, path)


def training(folder: Path, path: Path) -> Path | None:
    """Draw how a run of `carp train` went: its loss, how far its views disagree, and its online k-NN, by epoch.

    Args:
        folder: The run.
        path: Where the PNG goes.

    Returns:
        The path; None where the run's log has nothing to draw or there is nothing to draw with.

    Raises:
        StorageError: If the file cannot be written.
    """
    entries = journal.entries(folder)
    panels = chosen.panels(entries)
    if not panels or not available():
        return None
    with _figure(WIDTH, 2.1 * len(panels) + 0.4) as figure:
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (title, curves) in zip(axes, panels.items(), strict=True):
            _draw_curves(axis, title, curves)
        axes[-1].set_xlabel("epoch")
        return _save(figure, path)


def usage(sizes: Sequence[int], path: Path) -> Path | None:
    """Draw how many images each prototype has, those of most images first.

    Args:
        sizes: Images of each prototype.
        path: Where the PNG goes.

    Returns:
        The path; None where there is nothing to draw with.

    Raises:
        StorageError: If the file cannot be written.
    """
    if not available():
        return None
    ordered = sorted(sizes, reverse=True)
    mean = sum(ordered) / len(ordered)
    with _figure(WIDTH, 3.2) as figure:
        axis = figure.subplots()
        axis.fill_between(range(1, len(ordered) + 1), ordered, step="mid", color=OURS, alpha=0.85)
        axis.axhline(mean, color=THEIRS, linestyle="--", linewidth=1.2, label=f"all used alike: {mean:.1f}")
        axis.set_xlabel("prototypes, those of most images first")
        axis.set_ylabel("images")
        axis.set_ylim(bottom=0)
        axis.margins(x=0.01)
        axis.grid(axis="y")
        axis.legend(loc="upper right")
        return _save(figure, path)


def _draw_scores(axis: "Axes", bars: Sequence[Bar]) -> None:
    for place, bar in enumerate(bars):
        if bar.low is not None and bar.high is not None:
            axis.plot([bar.low, bar.high], [place, place], "-|", color=OURS, linewidth=1.4, markersize=8)
        first = place == 0
        axis.plot(bar.value, place, "o", color=OURS, markersize=4, label="measured" if first else None)
        axis.text(
            1.01, place, f"{bar.value:.2f}", transform=axis.get_yaxis_transform(), va="center", color=OURS
        )
        for same_variant, mark in ((True, "D"), (False, "x")):
            values = [value for value, same in bar.published if same == same_variant]
            axis.plot(
                values,
                [place] * len(values),
                mark,
                color=THEIRS,
                markersize=7,
                markerfacecolor="none",
                markeredgewidth=1.6,
                zorder=3,
            )
    told = [same for bar in bars for _, same in bar.published]
    if any(told):
        _legend_mark(axis, "D", "published, the same variant")
    if not all(told):
        _legend_mark(axis, "x", "published, another variant or none told")
    axis.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xlabel("percent; the line is the 95 % interval over images")
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.05)


def _legend_mark(axis: "Axes", mark: str, label: str) -> None:
    axis.plot([], [], mark, color=THEIRS, markerfacecolor="none", markeredgewidth=1.6, label=label)


def _draw_curves(axis: "Axes", title: str, curves: Mapping[str, chosen.Curve]) -> None:
    looks = ((OURS, "-"), (THEIRS, "--"), (THIRD, ":"))
    for (name, curve), (colour, line) in zip(curves.items(), looks, strict=False):
        # A single point, or few, would be no line.
        mark = "o" if len(curve.epochs) < 50 else ""
        axis.plot(
            curve.epochs,
            curve.values,
            color=colour,
            linestyle=line,
            marker=mark,
            markersize=3.5,
            linewidth=1.6,
            label=name,
        )
    axis.set_ylabel(title)
    axis.grid()
    axis.margins(x=0.02)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=len(curves), borderpad=0.2)


@contextmanager
def _figure(width: float, height: float) -> "Generator[Figure]":
    import matplotlib
    from matplotlib.figure import Figure

    # As matplotlib comes: what this machine prefers must not move a pixel.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        cast(Any, matplotlib.rcParams).update(STYLE)
        yield Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _save(figure: "Figure", path: Path) -> Path:
    with files.replacing(path) as beside, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        # The drawer's version is the only thing in it that is no picture.
        figure.savefig(beside, format="png", metadata={"Software": None})
    return path
