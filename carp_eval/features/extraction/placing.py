"""Each image's features in its own row: by number, not by arrival, and none missing or doubled."""

from collections.abc import Callable, Container, Iterable, Iterator

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from carp_eval.errors import BankError
from carp_eval.features.extraction.forward import Part
from carp_eval.features.shards import Span

NameImage = Callable[[int], str]


class Places:
    """Room for the features of consecutive images.

    Attributes:
        span: The images.
        features: A row for each of them, as it will be stored.
        taken: Which rows are filled.
    """

    features: Float[Tensor, "place dim"]
    taken: Bool[Tensor, " place"]

    def __init__(self, span: Span, dim: int, dtype: torch.dtype) -> None:
        self.span = span
        self.features = torch.empty(span.stop - span.start, dim, dtype=dtype)
        self.taken = torch.zeros(span.stop - span.start, dtype=torch.bool)

    def put(
        self, features: Float32[Tensor, "image dim"], index: Int64[Tensor, " image"], name: NameImage
    ) -> None:
        """Put some images' features into their rows.

        Raises:
            BankError: If a row is taken, or a value is not finite or becomes so in the bank's type.
        """
        place = index - self.span.start
        if len(place.unique()) < len(place) or self.taken[place].any():
            raise BankError(f"images numbered {self.span.start} to {self.span.stop - 1} came more than once")
        stored = features.to(self.features.dtype)
        _check_finite(
            features, index, "NaN or infinite", "look at the model's weights and its mean and std", name
        )
        _check_finite(stored, index, "too large for float16", "store float32 instead", name)
        self.features[place], self.taken[place] = stored, True

    def index(self) -> Int64[Tensor, " row"]:
        """Return the numbers of the images whose rows are filled."""
        return self.taken.nonzero().flatten() + self.span.start

    def missing(self) -> list[int]:
        """List the numbers of the images whose rows are empty."""
        return ((~self.taken).nonzero().flatten() + self.span.start).tolist()


def place(
    parts: Iterable[Part],
    spans: Iterable[Span],
    *,
    dim: int,
    dtype: torch.dtype,
    skipped: Container[int],
    name: NameImage,
) -> Iterator[Places]:
    """Sort features into the rows of their spans.

    Args:
        parts: Features and their images' numbers, span after span; in any order within one.
        spans: Which rows are filled together.
        dim: Width of a row.
        dtype: How features are stored.
        skipped: Numbers of the images that will not come, as far as is known when their span is over.
        name: What to call an image in an error.

    Yields:
        Each span once it is full.

    Raises:
        BankError: If a row is missing, doubled, of another width or not finite.
    """
    rest = iter(parts)
    features, index = torch.empty(0, dim), torch.empty(0, dtype=torch.int64)
    for span in spans:
        places = Places(span, dim, dtype)
        while True:
            inside = (index >= span.start) & (index < span.stop)
            places.put(features[inside], index[inside], name)
            features, index = features[~inside], index[~inside]
            # What is left over belongs to a later span: images of this one come no more.
            if places.taken.all() or len(index) or (part := next(rest, None)) is None:
                break
            features, index = part
            if features.shape[1:] != (dim,) or len(features) != len(index):
                raise BankError(
                    f"the network gives features of shape {tuple(features.shape)} for {len(index)} images; "
                    f"({len(index)}, {dim}) was expected"
                )
        missing = [number for number in places.missing() if number not in skipped]
        if missing:
            shown = ", ".join(name(number) for number in missing[:5])
            raise BankError(f"{len(missing)} images never came out of the loader: {shown}")
        yield places
    if len(index) or next(rest, None) is not None:
        raise BankError("the loader gave images that nobody asked for")


def _check_finite(
    features: Float[Tensor, "image dim"],
    index: Int64[Tensor, " image"],
    what: str,
    remedy: str,
    name: NameImage,
) -> None:
    bad = index[~features.isfinite().all(dim=1)].tolist()
    if bad:
        shown = ", ".join(name(number) for number in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise BankError(f"the features of {len(bad)} images have values that are {what} ({shown}): {remedy}")
