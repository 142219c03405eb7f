"""A map of one bank: drawn once, beside what is asked; until then an answer has no place on it."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval.features.rows import unit_rows
from carp_eval.features.search.neighbours import Neighbours
from carp_eval.report.explorer import votes
from carp_eval.report.explorer.exhibit import Exhibit
from carp_eval.report.parts.neighbours import rows_of, spread
from carp_eval.report.plane import Plane

FEWEST = 3


class Chart:
    """The map.

    Attributes:
        umap: Whether it is drawn by UMAP.
        rows: Rows of the bank that are its points.
        plane: Where they are; None until it is drawn, and where there are too few.
        is_drawn: Whether nothing is left to do.
    """

    def __init__(self, exhibit: Exhibit, *, umap: bool, points: int) -> None:
        """Draw nothing yet.

        Args:
            exhibit: The bank and its images.
            umap: Whether by UMAP.
            points: How many rows, at most.
        """
        self._exhibit = exhibit
        self.umap = umap
        self.rows: list[int] = spread(np.arange(len(exhibit.bank)), points)
        self.plane: Plane | None = None
        self.is_drawn = len(self.rows) < FEWEST

    def features(self) -> Float32[Tensor, "point dim"]:
        """Read the rows that are to be drawn.

        Raises:
            BankError: If the bank is damaged.
        """
        return rows_of(self._exhibit.bank, self.rows)

    def keep(self, plane: Plane) -> None:
        """Take what was drawn."""
        self.plane = plane
        self.is_drawn = True

    def told(self) -> dict[str, Any]:
        """Return the points: places, classes, images, keys."""
        exhibit, rows = self._exhibit, self.rows
        count = len(exhibit.bank)
        of_all = f"{len(rows):,} of {count:,} images" if len(rows) < count else f"{count:,} images"
        if self.plane is None:
            return {"x": [], "y": [], "label": [], "image": [], "key": [], "how": "there are too few images"}
        return {
            "x": self.plane.cells[:, 0].tolist(),
            "y": self.plane.cells[:, 1].tolist(),
            "label": exhibit.labels[rows].tolist(),
            "image": exhibit.numbers[rows].tolist(),
            "key": [exhibit.key(row) for row in rows],
            "how": f"{of_all}, {self.plane.how}",
        }

    def place_of(self, row: int, near: Neighbours) -> dict[str, Any] | None:
        """Return the place of a row of the bank; None where there is none."""
        if self.plane is None:
            return None
        point = self._point_of.get(row)
        if point is None:
            return self.place_near(rows_of(self._exhibit.bank, [row]), near)
        x, y = self.plane.cells[point].tolist()
        return {"x": x, "y": y, "how": ""}

    def place_near(self, features: Float32[Tensor, "1 dim"], near: Neighbours) -> dict[str, Any] | None:
        """Place what the map was not made of: by projection, else in the midst of its neighbours on the map."""
        if self.plane is None:
            return None
        cell = self.plane.place(unit_rows([features]))
        if cell is not None:
            x, y = cell[0].tolist()
            return {"x": x, "y": y, "how": "projected onto the map's axes"}
        there = [
            (self.plane.cells[self._point_of[row]].float(), max(0.0, similarity))
            # As many as vote, however many are shown: its place is then always the same.
            for row, similarity in zip(
                near.indices[0, : votes.K].tolist(), near.similarities[0, : votes.K].tolist(), strict=True
            )
            if row in self._point_of
        ]
        total = sum(weight for _, weight in there)
        if total <= 0:
            return None
        x, y = (
            sum((cell * weight for cell, weight in there), torch.zeros(2)).div(total).round().int().tolist()
        )
        return {"x": x, "y": y, "how": "at the mean of its neighbours, weighted by similarity"}

    @cached_property
    def _point_of(self) -> dict[int, int]:
        return {row: point for point, row in enumerate(self.rows)}
