"""An image that is in no bank, as a row of one: prepared and run as the bank's own images were."""

from typing import Any, Literal

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from carp_eval.data.images import Batch
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.errors import BankError
from carp_eval.features.bank import Bank, Fingerprint
from carp_eval.features.extraction.forward import choose_device, forward
from carp_eval.models.model import Model


class Embedder:
    """Turns images into rows that can be compared with a bank's."""

    def __init__(self, model: Model, fingerprint: Fingerprint, *, device: str | None = None) -> None:
        """Make ready.

        Args:
            model: The model that made the bank.
            fingerprint: The bank's.
            device: Where to run; None takes a GPU if there is one.

        Raises:
            BankError: If the bank was made in a way that one image alone cannot go.
            UsageError: If the device cannot be used.
        """
        if fingerprint.views != 1:
            raise BankError(f"its rows are means of {fingerprint.views} views of each image")
        self._model = model
        self._preprocessing = preprocessing_of(fingerprint.preprocessing)
        self._precision: Literal["float32", "bf16"] = fingerprint.precision
        self._dtype: torch.dtype = getattr(torch, fingerprint.dtype)
        self._device = choose_device(device)

    def __call__(self, image: Image.Image) -> Float32[Tensor, "1 dim"]:
        """Return an image's features, rounded as the bank's are.

        Raises:
            BadImageError: If the image cannot be prepared.
            BankError: If the features are not finite.
        """
        batch = Batch(self._preprocessing(image)[None], torch.zeros(1, dtype=torch.int64))
        ((features, _),) = forward(
            self._model.network, [batch], device=self._device, precision=self._precision
        )
        stored = features.to(self._dtype).float()
        if not stored.isfinite().all():
            raise BankError("the model makes no finite numbers of this image")
        return stored


def preprocessing_of(told: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing that a fingerprint tells of.

    Raises:
        BankError: If it tells of something else than resizing, cropping and normalising.
    """
    try:
        plain: dict[str, Any] = {**told, "mean": tuple(told["mean"]), "std": tuple(told["std"])}
        made = Preprocessing(**plain)
    except (TypeError, KeyError) as error:
        raise BankError(f"its images were prepared in a way that is not known here: {error}") from error
    if made.describe() != told:
        raise BankError("its images were prepared in a way that is not known here")
    return made


def embedder_of(bank: Bank, model: Model, *, device: str | None) -> tuple[Embedder | None, str]:
    """Return what embeds other images as a bank's were; or None, and why not."""
    try:
        return Embedder(model, bank.fingerprint, device=device), ""
    except BankError as error:
        return None, str(error)
