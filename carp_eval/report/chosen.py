"""What a picture shows: the main scores of each result, and the curves of a training's log."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carp_eval.report.found import main_scores
from carp_eval.results import Result, Score

# Numbers of their own, on no scale of percent.
NO_SHARES = frozenset({"rankme", "uniformity", "alignment"})
# Of an online evaluation, what is no sign of collapse.
NO_SIGNS = frozenset({"epoch", "step", "knn_student", "knn_teacher"})
# Points of a curve: as many as a picture can show.
MOST_POINTS = 600
LONGEST_NAME = 60


@dataclass(frozen=True)
class Bar:
    """A line of the plot of scores.

    Attributes:
        name: What was measured.
        value: In percent.
        low: Lower end of its interval; None where there is none.
        high: Upper end.
        published: What others have, and whether by the same variant.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    published: tuple[tuple[float, bool], ...]


@dataclass(frozen=True)
class Curve:
    """A number over the epochs of a training."""

    epochs: list[float]
    values: list[float]


def bars(results: Sequence[Result]) -> list[Bar]:
    """Return the main scores of all results, in order of protocol, variant and data."""
    ordered = sorted(
        results, key=lambda result: (result.protocol, result.variant, result.query_dataset, result.finished)
    )
    return [
        Bar(
            _name(result, score),
            score.value,
            score.low,
            score.high,
            tuple((known.value, known.same_variant) for known in score.published),
        )
        for result in ordered
        for score in main_scores(result)
        if score.metric not in NO_SHARES
    ]


def panels(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Return the curves of a training's log, by panel; what the log does not have is left out.

    The entropy term of the loss is what the consistency leaves of it.
    """
    steps = [entry for entry in entries if "loss" in entry]
    # An online evaluation stands in an entry of its own, right after the step it was made at.
    epoch_of = {entry["step"]: entry["epoch"] for entry in entries if "epoch" in entry}
    watched = [
        {"epoch": epoch_of[entry["step"]], **entry} for entry in entries if entry.get("step") in epoch_of
    ]
    entropy = [
        {"epoch": entry["epoch"], "entropy": entry["loss"] - entry["consistency"]}
        for entry in steps
        if "epoch" in entry and "consistency" in entry
    ]
    wanted = {
        "loss": {
            "loss": _curve(steps, "loss"),
            "consistency": _curve(steps, "consistency"),
            "entropy term": _curve(entropy, "entropy"),
        },
        "KL": {"ln N − H of the mean assignment; 0: prototypes used evenly": _curve(steps, "kl")},
        "20-NN top-1 (%)": {
            "student": _curve(watched, "knn_student"),
            "teacher": _curve(watched, "knn_teacher"),
        },
    }
    drawn = {
        title: {name: curve for name, curve in curves.items() if curve.epochs}
        for title, curves in wanted.items()
    }
    return {title: curves for title, curves in drawn.items() if curves}


def signs(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Return the curves of what was seen beside the online k-NN: the signs of collapse, a panel each, by their name."""
    epoch_of = {entry["step"]: entry["epoch"] for entry in entries if "epoch" in entry}
    seen = [
        {"epoch": epoch_of[entry["step"]], **entry}
        for entry in entries
        if "epoch" not in entry and entry["step"] in epoch_of
    ]
    names = dict.fromkeys(name for entry in seen for name in entry if name not in NO_SIGNS)
    curves = {name: _curve(seen, name) for name in names}
    return {
        f"sign of collapse: {name.replace('_', ' ')}": {name.replace("_", " "): curve}
        for name, curve in curves.items()
        if curve.epochs
    }


def is_surface(scores: Sequence[Score]) -> bool:
    """Tell whether scores are those of several numbers of neighbours at several temperatures."""
    return bool(scores) and all(score.settings.keys() == {"k", "temperature"} for score in scores)


def _name(result: Result, score: Score) -> str:
    settings = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in score.settings.items()
    )
    data = result.query_dataset.rstrip("/").rpartition("/")[2]
    name = f"{result.protocol}@{result.variant} {data}: {score.metric}{f' ({settings})' if settings else ''}"
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _curve(entries: Sequence[Mapping[str, Any]], key: str) -> Curve:
    points = [
        (float(entry["epoch"]), float(entry[key]))
        for entry in entries
        if "epoch" in entry and isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
    ]
    every = -(-len(points) // MOST_POINTS) if points else 1
    kept = points[::-1][::every][::-1]
    return Curve([epoch for epoch, _ in kept], [value for _, value in kept])
