"""What a report shows: its parts, put together from what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from carp_eval import results
from carp_eval.evaluation.job import DEFAULTS, Settings, no_bar
from carp_eval.report.evidence import Shelf
from carp_eval.report.found import Found
from carp_eval.report.parts import (
    bank_map,
    confusion,
    curves,
    groups,
    landmarks,
    multilabel,
    neighbours,
    provenance,
    rankings,
    scores,
    surfaces,
)
from carp_eval.report.parts.confusion import Confusion
from carp_eval.report.parts.curves import Curves
from carp_eval.report.parts.groups import Groups
from carp_eval.report.parts.multilabel import Multilabel
from carp_eval.report.parts.neighbours import Neighbours
from carp_eval.report.parts.provenance import Origin
from carp_eval.report.parts.rankings import Copies, Retrieved
from carp_eval.report.parts.scores import Scores
from carp_eval.report.parts.surfaces import Surface
from carp_eval.report.thumbnails import Thumbnails

# Of a page: results and scores, the newest, and bytes that pictures of maps may take.
RESULTS, SCORES, MAPS = 300, 2500, 7_000_000


@dataclass(frozen=True)
class Page:
    """All that a page shows.

    Attributes:
        title: Its heading.
        told: How much it is of, in words.
        words: What is not in it, and why.
        version: Of this package.
        made: When, in UTC.
        scores: Every score.
        surfaces: Scores by neighbours and temperature.
        training: How trainings went.
        confusion: What is taken for what.
        multilabel: The same, where an image shows several classes.
        neighbours: Images and what is near them.
        groups: Clusters, then prototypes.
        retrieved: Queries of class retrieval, then of landmarks.
        copies: Copies and their originals.
        maps: Banks on a plane.
        origins: What produced each result.
    """

    title: str
    told: str
    words: list[str]
    version: str
    made: str
    scores: Scores | None
    surfaces: list[Surface]
    training: Curves | None
    confusion: list[Confusion]
    multilabel: list[Multilabel]
    neighbours: list[Neighbours]
    groups: list[Groups]
    retrieved: list[Retrieved]
    copies: list[Copies]
    maps: list[bank_map.Map]
    origins: list[Origin]

    @property
    def tabs(self) -> list[tuple[str, str]]:
        """The parts that there are, by id and name."""
        there: list[tuple[str, str, object]] = [
            ("scores", "Scores", self.scores),
            ("surfaces", "Surfaces", self.surfaces),
            ("training", "Training", self.training),
            ("confusion", "Confusions", [*self.confusion, *self.multilabel]),
            ("neighbours", "Neighbours", self.neighbours),
            ("groups", "Clusters and prototypes", self.groups),
            ("searches", "Retrieval and copies", [*self.retrieved, *self.copies]),
            ("map", "Map", self.maps),
            ("origins", "Origins", self.origins),
        ]
        return [(id_, name) for id_, name, part in there if part]


def put_together(
    found: Sequence[Found],
    thumbnails: Thumbnails,
    *,
    runs: Sequence[Path] = (),
    unreadable: Sequence[str] = (),
    settings: Settings = DEFAULTS,
    points: int = bank_map.POINTS,
    umap: bool = True,
) -> Page:
    """Make every part that there is something for.

    Args:
        found: The results, the newest first.
        thumbnails: Takes the pictures.
        runs: Folders of trainings, the newest first.
        unreadable: Records that could not be read.
        settings: Where data sets and banks are, and who is told how far it is.
        points: Points of a map, at most.
        umap: Whether maps are drawn by UMAP where it is installed.
    """
    shown = _newest(found)
    shelf = Shelf(data_root=settings.data_root, bank_home=settings.bank_home)
    bar = settings.progress or no_bar
    tell = bar("parts of the report")
    steps: dict[str, Callable[[], Any]] = {
        "scores": lambda: scores.part(shown),
        "surfaces": lambda: surfaces.part(shown),
        "training": lambda: curves.part(runs),
        "confusion": lambda: confusion.part(shown, shelf, thumbnails),
        "multilabel": lambda: multilabel.part(shown, shelf, thumbnails),
        "neighbours": lambda: neighbours.part(shown, shelf, thumbnails),
        "clusters": lambda: groups.clusters(shown, shelf, thumbnails),
        "prototypes": lambda: groups.prototypes(runs, shelf, thumbnails, bank_home=settings.bank_home),
        "retrieved": lambda: rankings.retrieved(shown, shelf, thumbnails),
        "landmarks": lambda: landmarks.retrieved(shown, shelf, thumbnails),
        "copies": lambda: rankings.copied(shown, shelf, thumbnails, settings=settings),
        "maps": lambda: bank_map.part(
            shown, shelf, points=points, umap=umap, bytes_for_pictures=MAPS, bar=bar
        ),
        "origins": lambda: provenance.part(shown),
    }
    made: dict[str, Any] = {}
    for number, (name, step) in enumerate(steps.items()):
        tell(number, len(steps))
        made[name] = step()
    tell(len(steps), len(steps))
    clusters, prototypes = made.pop("clusters"), made.pop("prototypes")
    made["retrieved"] += made.pop("landmarks")
    models = sorted({scores.model_of(each.result) for each in shown})
    words = [f"not shown: {reason}" for reason in shelf.missing]
    words += [f"not readable: {problem}" for problem in unreadable]
    if len(found) > len(shown):
        words.insert(
            0, f"the newest {len(shown)} of {len(found)} results are shown: name models with -m for others"
        )
    named = ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")
    return Page(
        title=f"Report: {named}" if named else "Report",
        told=f"{len(shown):,} results of {len(models):,} models.",
        words=words,
        version=results.versions().get("carp-eval", ""),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        groups=[*clusters, *prototypes],
        **made,
    )


def _newest(found: Sequence[Found]) -> list[Found]:
    """Return as many results as a page has room for, one at least."""
    scored = accumulate(len(each.result.scores) for each in found[:RESULTS])
    room = sum(number <= SCORES for number in scored)
    return list(found[: max(1, room)])
