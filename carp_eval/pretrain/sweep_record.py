"""What is kept of a sweep: each entry's own file in its run's folder, and one file with all of them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from carp_eval import files
from carp_eval.cards import loading
from carp_eval.cards.frozen import Frozen
from carp_eval.errors import CardError
from carp_eval.pretrain import journal

SCHEMA_VERSION = 1
ENTRY, SWEEP = "entry.json", "sweep.json"

State = Literal["to run", "submitted", "running", "stopped", "failed", "done"]


class Entry(Frozen):
    """One choice of values, and what became of it.

    Attributes:
        changes: Value by dotted key, as the recipe was changed.
        folder: The run; empty where there can be none.
        state: What became of it.
        reason: How it failed; empty elsewhere.
        loss: Mean of the log's losses over the last epoch; None before.
        knn: The last online k-NN in percent, of student and teacher.
        scores: What was evaluated, in percent, by protocol and score.
        evaluated: The protocols that were run.
    """

    changes: dict[str, str]
    folder: str
    state: State = "to run"
    reason: str = ""
    loss: float | None = None
    knn: dict[str, float] = Field(default_factory=dict[str, float])
    scores: dict[str, float] = Field(default_factory=dict[str, float])
    evaluated: tuple[str, ...] = ()


class SweepRecord(Frozen):
    """A sweep as it stands.

    Attributes:
        schema_version: Of this record.
        recipe: What is trained.
        grid: The values of each key.
        evaluations: The protocols that judge each run.
        entries: Every choice of values, the last key's changing fastest.
        written: When this was written, in ISO 8601.
    """

    schema_version: int = SCHEMA_VERSION
    recipe: str
    grid: dict[str, tuple[str, ...]]
    evaluations: tuple[str, ...]
    entries: tuple[Entry, ...]
    written: str


def title(entry: Entry, grid: Mapping[str, Sequence[str]]) -> str:
    """Return what tells an entry from the others, in a line."""
    varied = {key: value for key, value in entry.changes.items() if len(grid[key]) > 1}
    return ", ".join(f"{key} = {value}" for key, value in varied.items()) or "the one training"


def known(entry: Entry) -> Entry:
    """Return what is kept of an entry in its folder; the entry itself where nothing is."""
    path = Path(entry.folder) / ENTRY
    if not entry.folder or not path.is_file():
        return entry
    try:
        return loading.check(Entry, loading.read_json(path), where=str(path))
    except CardError:
        # Of another release: the run itself tells what is done.
        return entry


def keep(entry: Entry) -> Entry:
    """Write an entry into its folder, with what the run's log tells of it, and return it so.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    entry = entry.model_copy(update=logged(Path(entry.folder)))
    files.write_text(Path(entry.folder) / ENTRY, entry.model_dump_json(indent=2) + "\n")
    return entry


def logged(folder: Path) -> dict[str, float | dict[str, float] | None]:
    """Return what a run's log tells: `loss` and `knn`, as an entry has them."""
    lines = journal.entries(folder)
    losses = [(line["epoch"], line["loss"]) for line in lines if "loss" in line and "epoch" in line]
    last = [loss for epoch, loss in losses if epoch > losses[-1][0] - 1]
    online = next((line for line in reversed(lines) if "knn_student" in line), {})
    knn = {name: online[f"knn_{name}"] for name in ("student", "teacher") if f"knn_{name}" in online}
    return {"loss": sum(last) / len(last) if last else None, "knn": knn}


def of(
    *, recipe: str, grid: dict[str, tuple[str, ...]], evaluations: Sequence[str], entries: Sequence[Entry]
) -> SweepRecord:
    """Put the record of a sweep together."""
    return SweepRecord(
        recipe=recipe,
        grid=grid,
        evaluations=tuple(evaluations),
        entries=tuple(entries),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def alone(folder: Path) -> AbstractContextManager[bool]:
    """Hold a sweep's record for oneself: jobs that end at the same time must not overwrite what another has added."""
    return files.locked(folder / SWEEP)


def save(record: SweepRecord, folder: Path) -> SweepRecord:
    """Write a sweep's record, and return it.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    files.write_text(folder / SWEEP, record.model_dump_json(indent=2) + "\n")
    return record
