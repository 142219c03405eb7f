"""What can go wrong, as one tree.

    CarpError                 anything a user can put right; the command line exits with 2
    ├── UsageError            an option or argument that cannot be
    │   └── UnknownNameError  a name that no table lists
    ├── CardError             a card that is broken or does not fit
    ├── DataError             a data set that is missing, empty or of the wrong shape
    │   └── BadImageError     a file that is not a readable image
    ├── CheckpointError       a weights file that cannot be read, or is not what it should be
    ├── BankError             a memory bank that is broken, busy or of another model
    ├── TrainingError         a training that cannot start or go on
    ├── HubError              a Hub that cannot be reached, refuses, or holds something else than was thought
    ├── PluginError           an installed package that extends this one, and does not work
    └── StorageError          a disk that is full, read-only or not ours to write

A message says what was expected, what came, and what to do.
"""

import difflib
from collections.abc import Iterable


class CarpError(Exception):
    """Anything a user can put right; the command line prints it and exits with 2.

    Attributes:
        told: Whether another of several processes prints it.
    """

    told: bool = False


class UsageError(CarpError):
    """An option or argument that cannot be."""


class UnknownNameError(UsageError):
    """A name that no table lists."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Say what was asked for, what is near it, and what there is.

        Args:
            kind: What the name should name, in the singular: `data set`, `recipe`.
            name: What came.
            known: Every name that would have done.
        """
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known) or 'none'}."
        super().__init__(f"there is no {kind} named {name!r}. {hint}")


class CardError(CarpError):
    """A card that is broken or does not fit."""


class DataError(CarpError):
    """A data set that is missing, empty or of the wrong shape."""


class BadImageError(DataError):
    """A file that is not a readable image."""


class CheckpointError(CarpError):
    """A weights file that cannot be read, or is not what it should be."""


class BankError(CarpError):
    """A memory bank that is broken, busy or of another model."""


class TrainingError(CarpError):
    """A training that cannot start or go on."""


class PluginError(CarpError):
    """An installed package that extends this one, and does not work."""


class HubError(CarpError):
    """A Hub that cannot be reached, refuses, or holds something else than was thought."""


class StorageError(CarpError):
    """A disk that is full, read-only or not ours to write."""
