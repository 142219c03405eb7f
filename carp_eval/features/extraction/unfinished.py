"""A bank that is being made: its plan, and the shards it has so far, on disk so that a killed extraction can go on.

Beside each finished shard lies what is known of it, `features-00000.json`; `plan.json` says which images each shard
takes. Once all are there, `bank.json` takes the place of both. Several processes may make shards at a time, each those
that it has claimed (`claims`).
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import PositiveInt, ValidationError

from carp_eval import files
from carp_eval.cards.frozen import Frozen
from carp_eval.errors import BankError
from carp_eval.features import shards
from carp_eval.features.bank import RECORD, Bank, BankRecord, Fingerprint
from carp_eval.features.shards import ShardRecord, Span

PLAN = "plan.json"


class Plan(Frozen):
    """How a bank's images are dealt to its shards.

    Attributes:
        images: Images in the split.
        images_per_shard: Consecutive images that a shard is about; the last takes what remains.
    """

    images: PositiveInt
    images_per_shard: PositiveInt


class UnfinishedBank:
    """A folder in which a bank is being made.

    Only who holds the bank's lock may begin, reopen or close it; only who holds a shard's, may write that shard.

    Attributes:
        path: The folder.
        plan: Which images each shard takes.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan

    @classmethod
    def begin(cls, path: Path, plan: Plan) -> "UnfinishedBank":
        """Begin a bank, or go on with the one that was begun, by the plan it was begun with.

        A record that is there is one that cannot be used, and goes.

        Raises:
            StorageError: If the folder cannot be written.
        """
        files.make_folder(path)
        _remove(path, RECORD, ".plan.json.*.tmp", ".bank.json.*.tmp")
        try:
            begun = Plan.model_validate_json((path / PLAN).read_bytes())
        except (FileNotFoundError, ValidationError):
            begun = None
        if begun is None or begun.images != plan.images:
            files.write_text(path / PLAN, plan.model_dump_json())
            begun = plan
        return cls(path, begun)

    @classmethod
    def reopen(cls, bank: Bank) -> "UnfinishedBank":
        """Make a finished bank unfinished again; of its shards, those whose bytes are wrong will be made anew.

        Raises:
            StorageError: If the folder cannot be written.
        """
        record = bank.record
        plan = Plan(images=record.images, images_per_shard=record.shards[0].stop)
        files.write_text(bank.path / PLAN, plan.model_dump_json())
        unfinished = cls(bank.path, plan)
        for shard in record.shards:
            unfinished.note(shard)
        with files.storage_errors(bank.path):
            (bank.path / RECORD).unlink()
        return unfinished

    def spans(self) -> list[Span]:
        """List the shards of the plan."""
        starts = range(0, self.plan.images, self.plan.images_per_shard)
        return [
            Span(shards.file_name(number), start, min(start + self.plan.images_per_shard, self.plan.images))
            for number, start in enumerate(starts)
        ]

    def note(self, shard: ShardRecord) -> None:
        """Note that a shard is finished.

        Raises:
            StorageError: If the folder cannot be written.
        """
        files.write_text(self._note_path(shard.file), shard.model_dump_json())

    def finished(self) -> list[ShardRecord]:
        """List the shards that are there with every byte as it was written; what is damaged is as good as not there."""
        noted = [self._noted(span) for span in self.spans()]
        return [shard for shard in noted if shard is not None and shards.problem(self.path, shard) is None]

    def trouble(self, span: Span) -> str | None:
        """Say what is wrong with a shard: nothing (None), that it is not there yet (an empty text), or its damage."""
        noted = self._noted(span)
        if noted is not None:
            return shards.problem(self.path, noted)
        # Notes go after the record has come: who finds no note looks for the record.
        return None if (self.path / RECORD).exists() else ""

    def clear(self, span: Span) -> None:
        """Remove what a killed process had begun to write of a shard.

        Raises:
            StorageError: If the folder cannot be written.
        """
        _remove(self.path, f".{Path(span.file).stem}.*.tmp")

    def lock_path(self, span: Span) -> Path:
        """Return the file on which a shard is claimed."""
        return (self.path / span.file).with_suffix(".lock")

    def close(
        self,
        fingerprint: Fingerprint,
        *,
        model: str,
        dataset: str,
        split: str,
        dim: int,
        class_names: tuple[str, ...],
    ) -> Bank:
        """Declare the bank finished: from now on it is one. Where another process has done so already, that one stays.

        Raises:
            BankError: If an image is in no shard, or in two.
            StorageError: If the folder cannot be written.
        """
        if (self.path / RECORD).exists():
            return Bank.open(self.path)
        finished = [
            ShardRecord.model_validate_json(self._note_path(span.file).read_bytes()) for span in self.spans()
        ]
        rows = sum(shard.rows for shard in finished)
        skipped = sum(len(shard.skipped) for shard in finished)
        if rows + skipped != self.plan.images:
            raise BankError(
                f"{self.path}: {self.plan.images} images gave {rows} rows and {skipped} were skipped; "
                "delete the folder and extract again"
            )
        if not rows:
            raise BankError(f"not one image of {dataset} ({split}) could be read: a bank would be empty")
        record = BankRecord(
            fingerprint=fingerprint,
            model=model,
            dataset=dataset,
            split=split,
            images=self.plan.images,
            rows=rows,
            dim=dim,
            class_names=class_names,
            shards=tuple(finished),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        files.write_text(self.path / RECORD, record.model_dump_json(indent=2) + "\n")
        notes = [self._note_path(span.file) for span in self.spans()]
        with files.storage_errors(self.path):
            for leftover in [*notes, self.path / PLAN]:
                leftover.unlink(missing_ok=True)
        _remove(self.path, ".*.tmp", "features-*.lock")
        return Bank(self.path, record)

    def _noted(self, span: Span) -> ShardRecord | None:
        try:
            shard = ShardRecord.model_validate_json(self._note_path(span.file).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return shard if (shard.start, shard.stop) == span[1:] else None

    def _note_path(self, file: str) -> Path:
        return (self.path / file).with_suffix(".json")


def _remove(folder: Path, *patterns: str) -> None:
    with files.storage_errors(folder):
        for pattern in patterns:
            for leftover in folder.glob(pattern):
                leftover.unlink(missing_ok=True)
