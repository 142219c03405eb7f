"""A report as one file: it holds all that it shows, and opens from the disk without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carp_eval import files
from carp_eval.errors import UsageError
from carp_eval.evaluation.job import DEFAULTS, Settings
from carp_eval.report import page as pages
from carp_eval.report import rendering
from carp_eval.report.found import Found
from carp_eval.report.page import Page
from carp_eval.report.parts import bank_map
from carp_eval.report.thumbnails import Thumbnail, Thumbnails

# What runs in a page, in its order.
SCRIPTS = ("sorting.js", "map.js", "report.js")
# Bytes of a page.
LIMIT = 15_000_000
# What is not counted beforehand: words that stand in place of pictures.
MARGIN = 250_000
# Marks of classes on a map, each of about the same area: not their colour alone tells them apart.
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.5 -3.5h7v7h-7z",
    "M0 -5l4.6 8h-9.2z",
    "M0 -5l5 5l-5 5l-5 -5z",
    "M-1.5 -5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
)


@dataclass(frozen=True)
class Written:
    """A page on the disk.

    Attributes:
        path: Where.
        size: In bytes.
        parts: Names of its parts.
        words: What is not in it, and why.
    """

    path: Path
    size: int
    parts: list[str]
    words: list[str]


def write(
    found: Sequence[Found],
    path: Path,
    *,
    runs: Sequence[Path] = (),
    unreadable: Sequence[str] = (),
    settings: Settings = DEFAULTS,
    points: int = bank_map.POINTS,
    umap: bool = True,
) -> Written:
    """Write a report; parts for which there is nothing are left out.

    Args:
        found: The results, the newest first.
        path: The file.
        runs: Folders of trainings, the newest first.
        unreadable: Records that could not be read.
        settings: Where data sets and banks are, and who is told how far it is.
        points: Points of a map, at most.
        umap: Whether maps are drawn by UMAP where it is installed; else by principal components.

    Raises:
        UsageError: If there is nothing to report, or more text than a page may have.
        StorageError: If the file cannot be written.
    """
    thumbnails = Thumbnails()
    page = pages.put_together(
        found, thumbnails, runs=runs, unreadable=unreadable, settings=settings, points=points, umap=umap
    )
    if not page.tabs:
        raise UsageError(
            "there is nothing to report: no result, and no training's log. Make one with carp eval knn, or name a "
            "model whose results are elsewhere with -m"
        )
    bare = len(_render(page, {}, []).encode("utf-8"))
    if bare > LIMIT - MARGIN:
        raise UsageError(
            f"{len(page.origins)} results make a page of {bare:,} bytes, which no browser shows well: name models "
            "with -m, as few as you compare"
        )
    kept = thumbnails.within(LIMIT - MARGIN - bare)
    dropped = len(thumbnails) - len(kept)
    words: list[str] = []
    if dropped:
        words.append(
            f"{dropped:,} of {len(thumbnails):,} pictures, the least important, were left out: a page is kept below "
            f"{LIMIT / 1e6:.0f} MB"
        )
    if thumbnails.unreadable:
        words.append(f"{thumbnails.unreadable:,} images could not be read, and have no picture")
    text = _render(page, kept, words)
    size = len(text.encode("utf-8"))
    assert size <= LIMIT, f"a page of {size} bytes"
    files.write_text(path, text)
    return Written(path, size, [name for _, name in page.tabs], page.words + words)


def _render(page: Page, kept: dict[str, Thumbnail], words: list[str]) -> str:
    return rendering.render(
        "page.html.j2",
        scripts=SCRIPTS,
        page=page,
        kept=kept,
        words=words,
        shapes=list(SHAPES),
    )
