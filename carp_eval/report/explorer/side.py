"""One of the models that are looked at: all that the page asks of it, in plain values."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from carp_eval.errors import BankError, CarpError, UsageError
from carp_eval.report import plane as planes
from carp_eval.report.explorer import votes
from carp_eval.report.explorer.chart import Chart
from carp_eval.report.explorer.choosing import Chosen
from carp_eval.report.explorer.embedding import embedder_of
from carp_eval.report.explorer.exhibit import Exhibit
from carp_eval.report.explorer.nearest_prototype import prototypes_of
from carp_eval.report.explorer.searching import Answer, Searcher
from carp_eval.report.explorer.votes import Votes
from carp_eval.report.svg import plain

# Points of a map.
POINTS = 20_000
# Answers that wait for the map, of which the page shows one.
MOST_WAITING = 32


class Side:
    """A bank, its search, its map and its model.

    Attributes:
        exhibit: The bank and its images.
        searcher: What searches it.
        votes: What its images' neighbours take them for.
        chart: Its map.
    """

    def __init__(
        self,
        chosen: Chosen,
        exhibit: Exhibit,
        *,
        umap: bool = False,
        points: int = POINTS,
        device: str | None = None,
        home: Path | None = None,
        approximate: bool = True,
        memory: int | None = None,
    ) -> None:
        """Open everything but the map and the votes, which are made when they are asked for.

        Args:
            chosen: The bank and its model.
            exhibit: The bank and its images.
            umap: Whether the map is drawn by UMAP.
            points: Points of the map, and images whose neighbours vote, at most.
            device: Where the model runs.
            home: Folder that holds banks.
            approximate: Whether a bank's index is used, where it has one.
            memory: Bytes that a search may take; None is a quarter of this machine's.

        Raises:
            UsageError: If the device cannot be used.
        """
        bank, model = chosen.bank, chosen.model
        self.exhibit = exhibit
        self.searcher = Searcher(bank, memory=memory, approximate=approximate)
        self.votes = Votes(exhibit, self.searcher, most=points)
        self.chart = Chart(exhibit, umap=umap, points=points)
        self._waiting: dict[int, Callable[[], dict[str, Any] | None]] = {}
        self._tickets = itertools.count(1)
        self._embed, self._closed = (
            (None, chosen.closed) if model is None else embedder_of(bank, model, device=device)
        )
        self._prototypes = None if model is None else prototypes_of(bank, model, device=device, home=home)

    def describe(self) -> dict[str, Any]:
        """Say what it is, and what can be done with it."""
        bank, record = self.exhibit.bank, self.exhibit.bank.record
        told = bank.fingerprint
        return {
            "model": plain(record.model),
            "branch": told.branch,
            "layer": plain(told.layer),
            "rows": len(bank),
            "dim": bank.dim,
            "search": self.searcher.kind,
            "closed": plain(self._closed),
            "missing": plain(self.exhibit.missing),
            "prototypes": self._prototypes is not None,
        }

    def of_image(self, number: int, *, k: int) -> dict[str, Any]:
        """Answer what is nearest to one of the bank's own images, itself left out.

        Args:
            number: Of the image in the split.
            k: Neighbours to show.

        Raises:
            UsageError: If the bank has no such image.
            BankError: If the bank is damaged.
        """
        exhibit = self.exhibit
        row = exhibit.row_of(number)
        if len(exhibit.bank) < 2:
            raise BankError("this bank has a single image, which has no neighbours")
        answer = self.searcher.others([row], k=max(k, votes.K))
        label = int(exhibit.labels[row])
        told = self._told(answer, label=label, k=k)
        told["query"] = {**self._image(row), "class": exhibit.name_of(label)}
        self._place(told, lambda: self.chart.place_of(row, answer.near))
        told["prototype"] = self._prototype(None, number)
        return told

    def of_picture(self, image: Image.Image, *, k: int) -> dict[str, Any]:
        """Answer what is nearest to an image that may be in no bank.

        Args:
            image: The image.
            k: Neighbours to show.

        Raises:
            BankError: If the model cannot be opened, or the bank is damaged.
            BadImageError: If the image cannot be prepared.
        """
        if self._embed is None:
            raise BankError(f"other images cannot be embedded: {self._closed}")
        features = self._embed(image)
        answer = self.searcher.near(features, k=max(k, votes.K))
        told = self._told(answer, label=votes.UNKNOWN, k=k)
        told["query"] = None
        self._place(told, lambda: self.chart.place_near(features, answer.near))
        told["prototype"] = self._prototype(image, None)
        return told

    def map(self) -> dict[str, Any]:
        """Return the map's points, once it is drawn: places, classes, images, keys.

        Raises:
            BankError: If the bank is damaged.
        """
        if not self.chart.is_drawn:
            self.chart.keep(planes.draw(self.chart.features(), umap=self.chart.umap))
        return self.chart.told()

    def place(self, ticket: int) -> dict[str, Any] | None:
        """Return the place on the map of what was asked before it was drawn.

        Args:
            ticket: What stood for the place in that answer.

        Raises:
            UsageError: If there is no such answer any more.
        """
        find = self._waiting.pop(ticket, None)
        if find is None:
            raise UsageError("this answer waits for no place: ask again")
        return find()

    def _place(self, told: dict[str, Any], find: Callable[[], dict[str, Any] | None]) -> None:
        """Put the place on the map into an answer, or what it is asked for by once there is a map."""
        if self.chart.is_drawn:
            told.update(place=find(), placing=None)
            return
        ticket = next(self._tickets)
        self._waiting[ticket] = find
        while len(self._waiting) > MOST_WAITING:
            del self._waiting[min(self._waiting)]
        told.update(place=None, placing=ticket)

    def judged(self) -> dict[str, Any]:
        """Return the images that their neighbours take for another class, and those they take for their own."""
        exhibit, predicted = self.exhibit, self.votes.predicted
        counted, right = predicted >= 0, predicted == exhibit.labels
        return {
            "wrong": exhibit.numbers[counted & ~right].tolist(),
            "right": exhibit.numbers[counted & right].tolist(),
        }

    def _told(self, answer: Answer, *, label: int, k: int) -> dict[str, Any]:
        exhibit = self.exhibit
        near = answer.near
        found = near.indices[0]
        labels = torch.from_numpy(exhibit.labels)[found]
        counted = votes.K
        chosen, share = votes.vote(
            near.similarities[:, :counted], labels[None, :counted], classes=len(exhibit.class_names)
        )
        taken = int(chosen[0])
        shown = [
            {
                **self._image(row),
                "class": exhibit.name_of(int(exhibit.labels[row])),
                "similarity": similarity,
                "same": None if label < 0 else bool(exhibit.labels[row] == label),
            }
            for row, similarity in zip(found[:k].tolist(), near.similarities[0, :k].tolist(), strict=True)
        ]
        return {
            "neighbours": shown,
            "vote": None
            if taken < 0
            else {
                "class": exhibit.name_of(taken),
                "label": taken,
                "share": float(share[0]),
                "voters": min(counted, len(found)),
                "right": None if label < 0 else taken == label,
            },
            "search": {"kind": self.searcher.kind, "milliseconds": answer.milliseconds},
        }

    def _image(self, row: int) -> dict[str, Any]:
        exhibit = self.exhibit
        return {
            "image": int(exhibit.numbers[row]),
            "key": exhibit.key(row),
            "label": int(exhibit.labels[row]),
        }

    def _prototype(self, image: Image.Image | None, number: int | None) -> dict[str, Any] | None:
        """Say which prototype is nearest; what stands in the way is a word, not the end of the answer."""
        if self._prototypes is None:
            return None
        try:
            if image is None:
                assert number is not None
                image = self.exhibit.image(number)
            return self._prototypes.of(image)
        except CarpError as error:
            return {"missing": plain(str(error).partition("\n")[0])}
