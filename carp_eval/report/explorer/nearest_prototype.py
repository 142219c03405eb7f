"""The trained prototype that an image is nearest to, and the bank's images that are surest there."""

from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from carp_eval.checkpoints.prototypes import TrainedPrototypes, open_prototypes
from carp_eval.errors import CarpError
from carp_eval.evaluation import assignment, gathered
from carp_eval.evaluation.gathered import Gathered
from carp_eval.features import known_banks
from carp_eval.features.assigning import assign
from carp_eval.features.bank import Bank
from carp_eval.models.model import Model
from carp_eval.report.explorer.embedding import Embedder

# Images of a prototype that are shown.
SHOWN = 6


class NearestPrototype:
    """Assigns images to the prototypes of the training that made a bank."""

    def __init__(
        self, opened: TrainedPrototypes, bank: Bank, *, device: str | None, home: Path | None
    ) -> None:
        """Make ready.

        Args:
            opened: The prototypes and their network.
            bank: The bank that is looked at: of the same training, at any layer.
            device: Where to run.
            home: Folder that holds banks.

        Raises:
            BankError: If one image alone cannot be prepared as the bank's were.
        """
        self._opened = opened
        self._embeddings = _embeddings(opened, bank, home=home)
        # Prepared as those images were that it is shown beside.
        wanted = (self._embeddings or bank).fingerprint
        self._embed = Embedder(opened.model, wanted.model_copy(update={"dtype": "float32"}), device=device)

    def of(self, image: Image.Image) -> dict[str, Any]:
        """Say which prototype an image is nearest to, and who else is.

        Raises:
            BadImageError: If the image cannot be prepared.
            BankError: If its features are not finite.
        """
        opened = self._opened
        found = assign(
            self._embed(image),
            opened.rows,
            temperature=opened.temperature,
            unit_embeddings=opened.unit_embeddings,
        )
        number = int(found.prototypes[0, 0])
        surest = [] if self._gathered is None else self._gathered.surest(number, SHOWN)
        return {
            "number": number,
            "count": len(opened),
            "confidence": float(found.confidences[0, 0]),
            "images": [place.index for place, _ in surest],
            "banked": self._gathered is not None,
        }

    @cached_property
    def _gathered(self) -> Gathered | None:
        """What the bank's images were assigned to, where their embeddings are banked."""
        if self._embeddings is None:
            return None
        return gathered.gather([assignment.assignments(self._embeddings, self._opened)], self._opened)


def _embeddings(opened: TrainedPrototypes, bank: Bank, *, home: Path | None) -> Bank | None:
    """Find a bank of the same images' embeddings, prepared as the bank's were if there is one."""
    mine = bank.fingerprint
    there = [
        each
        for each in known_banks.of_weights(opened.model.weights_sha256, home=home)
        if each.fingerprint.layer == opened.model.layer
        and each.fingerprint.manifest_sha256 == mine.manifest_sha256
        and each.fingerprint.views == 1
    ]
    return max(there, key=lambda each: each.fingerprint.preprocessing == mine.preprocessing, default=None)


def prototypes_of(
    bank: Bank, model: Model, *, device: str | None, home: Path | None
) -> NearestPrototype | None:
    """Return the prototypes of the training that made a bank; None where there are none."""
    if model.folder is None:
        return None
    try:
        branch = "student" if model.branch == "student" else None
        opened = open_prototypes(str(model.folder), branch=branch)
        return NearestPrototype(opened, bank, device=device, home=home)
    except CarpError:
        # Of a method without prototypes, or of images prepared otherwise: there is nothing to show.
        return None
