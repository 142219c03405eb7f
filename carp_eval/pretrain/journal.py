"""What a training writes down: a JSON-lines log and TensorBoard's curves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from carp_eval import files

LOG = "log.jsonl"


class Journal:
    """The log of one run, its last entry flushed."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Open a run's log at a step; what a killed run wrote after it is dropped.

        Args:
            folder: The run's folder.
            step: Steps taken so far.

        Raises:
            StorageError: If the log cannot be written.
        """
        path = folder / LOG
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        files.write_text(path, "".join(kept))
        self._path = path
        with files.storage_errors(path):
            self._file = path.open("a", encoding="utf-8")
            self._curves = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, *, step: int, values: Mapping[str, Any]) -> None:
        """Add an entry; numbers become points of TensorBoard's curves.

        Raises:
            StorageError: If the disk is full.
        """
        with files.storage_errors(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._curves.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish both."""
        self._file.close()
        self._curves.close()


def entries(folder: Path) -> list[dict[str, Any]]:
    """Read a run's log; a last line that a crash cut short is left out."""
    return [json.loads(line) for line in _lines(folder / LOG)]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return [
        line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")
    ]
