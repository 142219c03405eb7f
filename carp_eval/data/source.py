"""A data set that was found: which splits it has, and how one of them is opened."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from carp_eval.data.images import Images
from carp_eval.errors import DataError

# What data sets call the same three splits; the first is how this project spells it.
ALIASES = (
    ("train", "training"),
    ("validation", "val", "valid", "dev"),
    ("test", "testing"),
)
SPLIT_NAMES = frozenset(name for group in ALIASES for name in group)


def spellings(split: str) -> frozenset[str]:
    """Return every name of the same split: `validation`, `val`, `valid`, `dev`; of any other, its own alone."""
    return frozenset(next((group for group in ALIASES if split.lower() in group), (split,)))


class Source(ABC):
    """Where a data set's images come from.

    Attributes:
        name: The data set as the user spells it.
        splits: Every split there is, by the source's own names.
    """

    name: str
    splits: tuple[str, ...]

    @abstractmethod
    def open_split(self, split: str) -> Images:
        """Open one split, by exactly one of the names in `splits`."""

    def open(self, split: str) -> Images:
        """Open one split, by its name or an alias of it (see `resolve`).

        Raises:
            DataError: If there is no such split.
        """
        return self.open_split(resolve(split, self.splits, name=self.name))


def resolve(split: str, splits: Sequence[str], *, name: str) -> str:
    """Find the split that a name means.

    The exact name comes first; then another spelling of the same split (`val` or `Validation` for `validation`);
    then, for `test` alone, the validation split: many data sets keep their test labels to themselves, and the field
    scores on validation instead.

    Args:
        split: What was asked for.
        splits: What there is.
        name: The data set, for the message.

    Raises:
        DataError: If none of them fits; the message lists what there is.
    """
    if split in splits:
        return split
    by_lower_case = {there.lower(): there for there in splits}
    _, validation, test = ALIASES
    tried = next((group for group in ALIASES if split.lower() in group), ())
    if tried == test:
        tried += validation
    for alias in tried:
        if alias in by_lower_case:
            return by_lower_case[alias]
    hint = ""
    if tried and tried[0] in (*validation, *test) and len(splits) == 1:
        hint = "; a data set to be scored on needs a second split, such as a folder `test` beside `train`"
    raise DataError(f"the data set {name} has no split {split!r}, only {', '.join(splits)}{hint}")
