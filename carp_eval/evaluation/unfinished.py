"""What a long evaluation keeps, so that stopping it loses little."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from carp_eval import distributed, files


class Unfinished:
    """The state of one evaluation that has not ended yet, in a file of its own.

    Attributes:
        path: The file; it is there once something was saved, and goes when the evaluation has ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last; None if nothing was, or if the file is damaged: the work then starts anew."""
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what was saved by tensors and plain values; of several processes the main one writes.

        Raises:
            StorageError: If the disk is full, read-only or closed to us.
        """
        if distributed.is_main():
            with files.replacing(self.path) as beside, files.storage_errors(self.path):
                torch.save(dict(state), beside)

    def remove(self) -> None:
        """Forget what was saved."""
        if distributed.is_main():
            self.path.unlink(missing_ok=True)
            # What processes that were killed while they saved have left.
            for beside in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                beside.unlink(missing_ok=True)
