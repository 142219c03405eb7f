"""What the prototypes of a training have gathered on a data set: the assignments of all its splits, summed up."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from carp_eval.checkpoints.prototypes import TrainedPrototypes
from carp_eval.errors import UsageError
from carp_eval.evaluation import prototype_use
from carp_eval.evaluation.assignment import Assignments
from carp_eval.evaluation.prototype_use import Use


@dataclass(frozen=True)
class Place:
    """An image: which of the splits, and its number there."""

    split: int
    index: int


@dataclass(frozen=True)
class Gathered:
    """All images, split after split, and the prototype of each.

    Attributes:
        prototypes: What was assigned to.
        splits: The splits' banks and what their rows were assigned to.
    """

    prototypes: TrainedPrototypes
    splits: Sequence[Assignments]

    @cached_property
    def assigned(self) -> Int64[np.ndarray, " image"]:
        """The prototype of each image."""
        return np.concatenate([part.prototypes[:, 0] for part in self.splits])

    @cached_property
    def confidences(self) -> Float32[np.ndarray, " image"]:
        """How surely each image was assigned."""
        return np.concatenate([part.confidences[:, 0] for part in self.splits])

    @cached_property
    def labels(self) -> Int64[np.ndarray, " image"]:
        """Class of each image; -1 where there is none."""
        return np.concatenate([part.bank.labels.numpy() for part in self.splits])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by number."""
        return self.splits[0].bank.class_names

    @cached_property
    def use(self) -> Use:
        """How the prototypes are used."""
        return prototype_use.use(self.assigned, self.confidences, self.labels, count=len(self.prototypes))

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Every prototype, in columns (see `prototype_use.each`)."""
        return prototype_use.each(self.assigned, self.confidences, self.labels, count=len(self.prototypes))

    def bins(self) -> dict[str, int]:
        """Count prototypes by how many images they have."""
        return prototype_use.sizes_in_bins(self.columns["images"])

    def most_used(self, most: int) -> list[int]:
        """Return the prototypes of most images."""
        return prototype_use.most_used(self.columns["images"], most)

    def rows(self, most: int) -> list[dict[str, Any]]:
        """Describe the prototypes of most images, in plain values."""
        return [self._row(number) for number in self.most_used(most)]

    def surest(self, prototype: int, most: int) -> list[tuple[Place, float]]:
        """Return images of a prototype and their confidences, the surest first."""
        chosen = prototype_use.surest(self.assigned == prototype, self.confidences, most)
        return [(self._place(row), float(self.confidences[row])) for row in chosen]

    def describe(self) -> dict[str, Any]:
        """Say all but what each image was assigned to, in plain values."""
        return {
            "model": self.prototypes.model.name,
            "branch": self.prototypes.model.branch,
            "weights_sha256": self.prototypes.model.weights_sha256,
            "assignment": self.prototypes.describe(),
            "dataset": self.splits[0].bank.record.dataset,
            "splits": [part.bank.record.split for part in self.splits],
            "use": self.use.model_dump(mode="json"),
            "prototypes_by_images": self.bins(),
        }

    def _row(self, number: int) -> dict[str, Any]:
        values = {name: column[number].item() for name, column in self.columns.items()}
        label = values.pop("label")
        # NaN is no JSON.
        plain = {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in values.items()
        }
        return {**plain, "class_name": self.class_names[label] if label >= 0 else None}

    def _place(self, row: int) -> Place:
        for split, part in enumerate(self.splits):
            if row < len(part.bank):
                return Place(split, int(part.bank.index[row]))
            row -= len(part.bank)
        raise AssertionError("a row belongs to one of the splits")


def gather(splits: Sequence[Assignments], prototypes: TrainedPrototypes) -> Gathered:
    """Put the assignments of several splits together.

    Raises:
        UsageError: If there is no image, or the splits have other classes.
    """
    if not sum(len(part.bank) for part in splits):
        raise UsageError("there is no image to assign")
    if len({part.bank.class_names for part in splits}) > 1:
        raise UsageError("the splits have other classes than each other: look at one at a time, with --split")
    return Gathered(prototypes, splits)
