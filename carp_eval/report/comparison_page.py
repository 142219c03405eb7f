"""A comparison of two models as a page, with the images they differ on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carp_eval.errors import BadImageError
from carp_eval.report import alike, comparison_words, small_page
from carp_eval.report.comparison import Comparison, Disagreement
from carp_eval.report.evidence import Evidence, Shelf
from carp_eval.report.thumbnails import SIDE, address, encoded, shrunk

# Of either way and comparison: pictures, and keys.
PICTURES, KEYS = 48, 5_000


def write(
    compared: Sequence[Comparison], alone: Sequence[str], path: Path, *, data_root: Path | None = None
) -> None:
    """Write comparisons as one HTML file; without pictures where the images are not at hand.

    Args:
        compared: What was compared.
        alone: Of each result without a partner, why.
        path: The file.
        data_root: Folder that holds named data sets.

    Raises:
        StorageError: If the file cannot be written.
    """
    shelf = Shelf(data_root=data_root)
    parts = [_part(each, Evidence(each.first, shelf)) for each in compared]
    models = [compared[0].first.result.model, compared[0].second.result.model]
    words = [f"not compared: {why}" for why in alone] + [f"not shown: {reason}" for reason in shelf.missing]
    small_page.write("comparison.html.j2", path, title=" and ".join(models), parts=parts, words=words)


def _part(compared: Comparison, evidence: Evidence) -> dict[str, Any]:
    first = compared.first.result
    skipped = comparison_words.skipped(compared)
    return {
        "title": f"{alike.title(first)}, {first.query_split}",
        "first": comparison_words.model(compared.first),
        "second": comparison_words.model(compared.second),
        "told": f"{compared.common:,} images that both have. {skipped}".strip(),
        "scores": [{"name": each.name, "cells": comparison_words.cells(each)} for each in compared.scores],
        "why": comparison_words.why(compared),
        "looked_at": compared.looked_at,
        "classes": [
            {
                "name": comparison_words.class_name(each, evidence),
                "images": each.images,
                "first": each.first,
                "second": each.second,
                "gain": each.gain,
            }
            for each in compared.classes
        ],
        "sides": [
            {
                "title": title,
                "count": len(images),
                "shown": [_shown(each, evidence) for each in images[:PICTURES]],
                "names": [each.key for each in images[:KEYS]],
            }
            for title, images in comparison_words.sides(compared)
        ],
    }


def _shown(each: Disagreement, evidence: Evidence) -> dict[str, str]:
    told = comparison_words.answer(each, evidence)
    picture = ""
    images = evidence.queries
    if images is not None and 0 <= each.index < len(images):
        try:
            picture = address(encoded(shrunk(images.image(each.index), SIDE)))
        except BadImageError:
            told = f"{told}; cannot be read any more"
    return {"address": picture, "alt": f"{each.key}: {told}", "caption": told}
