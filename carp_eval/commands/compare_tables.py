"""How a comparison of two models looks in the terminal."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carp_eval.commands import tables
from carp_eval.report import alike, comparison_words
from carp_eval.report.comparison import Compared, Comparison, Disagreement
from carp_eval.report.evidence import Evidence, Shelf
from carp_eval.report.found import main_scores
from carp_eval.report.svg import plain

MOST_CLASSES = 5
MOST_KEYS = 8
# Scores of a comparison before those of less news are left to the page, and letters of a name.
MOST_SCORES, NAME = 12, 9


def show(
    compared: Sequence[Comparison], alone: Sequence[str], *, data_root: Path | None, as_json: bool
) -> None:
    """Print comparisons, and why results were not compared.

    Args:
        compared: What was compared.
        alone: Of each result without a partner, why.
        data_root: Folder that holds named data sets, which know their classes' names.
        as_json: Whether to print JSON, with every image that the two differ on.
    """
    shelf = Shelf(data_root=data_root)
    named = [(each, Evidence(each.first, shelf)) for each in compared]
    if as_json:
        told = [_content(each, evidence) for each, evidence in named]
        print(json.dumps({"comparisons": told, "not_compared": list(alone)}, indent=2))
        return
    for each, evidence in named:
        _show(each, evidence)
    for why in alone:
        tables.warn(f"not compared: {plain(why)}")


def _show(compared: Comparison, evidence: Evidence) -> None:
    first = compared.first.result
    tables.say(f"{plain(alike.title(first))}, {first.query_split}: {compared.common:,} images")
    tables.say(f"A: {plain(comparison_words.model(compared.first))}")
    tables.say(f"B: {plain(comparison_words.model(compared.second))}")
    if any(compared.alone):
        tables.warn(comparison_words.skipped(compared))
    shown = compared.scores
    if len(shown) > MOST_SCORES:
        main = {score.name for score in main_scores(first)}
        shown = [score for score in shown if score.name in main]
    Console().print(_scores(shown))
    if len(shown) < len(compared.scores):
        tables.say(f"{len(compared.scores) - len(shown)} more scores are in --to and --json")
    for why in comparison_words.why(compared):
        tables.say(plain(why))
    if compared.looked_at:
        _show_classes(compared, evidence)
        for title, images in comparison_words.sides(compared):
            _show_images(title, images, evidence)
    tables.say("")


def _scores(scores: Sequence[Compared]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    # Names are broken between words, not within.
    table.add_column("score", min_width=NAME)
    for name in ("A", "B", "B − A", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("only A right", "only B right", "McNemar p"):
        table.add_column(name, justify="right")
    for each in scores:
        first, second, gain, *rest = comparison_words.cells(each)
        difference = each.difference
        if difference is not None and (difference.low > 0 or difference.high < 0):
            gain = f"[bold]{gain}[/]"
        table.add_row(escape(plain(each.name)), first, second, gain, *rest)
    return table


def _show_classes(compared: Comparison, evidence: Evidence) -> None:
    lost = [each for each in compared.classes if each.gain < 0][:MOST_CLASSES]
    gained = [each for each in reversed(compared.classes) if each.gain > 0][:MOST_CLASSES]
    if not lost and not gained:
        return
    tables.say(f"classes that differ most, by {plain(compared.looked_at)}:")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("class", "images", "A", "B", "B − A"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=name != "class")
    for each in [*gained, *reversed(lost)]:
        name = escape(plain(comparison_words.class_name(each, evidence)))
        table.add_row(
            name, f"{each.images:,}", f"{each.first:.1f}", f"{each.second:.1f}", f"{each.gain:+.1f}"
        )
    Console().print(table)


def _show_images(what: str, images: Sequence[Disagreement], evidence: Evidence) -> None:
    if not images:
        return
    keys = [plain(f"{each.key} ({comparison_words.answer(each, evidence)})") for each in images[:MOST_KEYS]]
    more = f" and {len(images) - MOST_KEYS:,} more, which --json lists" if len(images) > MOST_KEYS else ""
    tables.say(f"{what} on {len(images):,}: {', '.join(keys)}{more}")


def _content(compared: Comparison, evidence: Evidence) -> dict[str, Any]:
    def side(number: int) -> dict[str, str]:
        found = (compared.first, compared.second)[number]
        result = found.result
        return {
            "file": str(found.path),
            "model": result.model,
            "branch": result.branch,
            "weights_sha256": result.weights_sha256,
        }

    def difference(each: Compared) -> dict[str, float] | None:
        return None if each.difference is None else each.difference._asdict()

    return {
        "protocol": compared.first.result.protocol,
        "variant": compared.first.result.variant,
        "dataset": compared.first.result.query_dataset,
        "split": compared.first.result.query_split,
        "first": side(0),
        "second": side(1),
        "images": {
            "common": compared.common,
            "first_alone": compared.alone[0],
            "second_alone": compared.alone[1],
        },
        "scores": [
            {
                **asdict(each),
                "difference": difference(each),
                "outcomes": None if each.outcomes is None else each.outcomes._asdict(),
            }
            for each in compared.scores
        ],
        "unshared": compared.unshared,
        "looked_at": compared.looked_at,
        "classes": [
            {**asdict(each), "name": comparison_words.class_name(each, evidence), "gain": each.gain}
            for each in compared.classes
        ],
        "first_better": [asdict(each) for each in compared.first_better],
        "second_better": [asdict(each) for each in compared.second_better],
    }
