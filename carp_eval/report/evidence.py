"""What lies behind a result, as far as it is at hand: its predictions, its banks, and the images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64

from carp_eval import files
from carp_eval.data import opening
from carp_eval.data.images import Images
from carp_eval.errors import BankError, CarpError
from carp_eval.features.bank import Bank
from carp_eval.report.found import Found

PREDICTED, RIGHT = "predicted", "right"
# Columns of whole numbers; and how those of any numbers begin.
WHOLE = frozenset({"index", "label", "cluster", "nearer"})
NUMBERS = ("target_", "decision_", "average_precision_")


class Shelf:
    """Opens splits of data sets and banks, each once.

    Attributes:
        missing: Why what was asked for is not at hand, each reason once.
    """

    def __init__(self, *, data_root: Path | None = None, bank_home: Path | None = None) -> None:
        """Open nothing yet.

        Args:
            data_root: Folder that holds named data sets.
            bank_home: Folder that holds banks; None is `$CARP_HOME/banks`.
        """
        self._data_root = data_root
        self._bank_home = bank_home or files.home() / "banks"
        self._images: dict[tuple[str, str], Images | None] = {}
        self._banks: dict[str, Bank | None] = {}
        self._evidence: dict[Path, Evidence] = {}
        self.missing: list[str] = []

    def evidence(self, found: Found) -> "Evidence":
        """Return what lies behind a result; the same for all parts of a page, so that it is read once."""
        return self._evidence.setdefault(found.path, Evidence(found, self))

    def images(self, dataset: str, split: str, *, manifest_sha256: str | None) -> Images | None:
        """Open a split, if it is on this machine and is the one whose hash is told.

        Args:
            dataset: The data set, as it was spelled.
            split: The split.
            manifest_sha256: Its hash; None takes any.
        """
        if (dataset, split) not in self._images:
            try:
                self._images[dataset, split] = opening.open_images(dataset, split, data_root=self._data_root)
            except CarpError as error:
                self._images[dataset, split] = None
                self.tell(f"images of {dataset} ({split}): {str(error).splitlines()[0]}")
        images = self._images[dataset, split]
        if images is None or manifest_sha256 is None or images.manifest_sha256 == manifest_sha256:
            return images
        self.tell(f"images of {dataset} ({split}): those on this machine are not those that were judged")
        return None

    def bank(self, sha256: str, *, of: str) -> Bank | None:
        """Open the bank of a fingerprint, if it is on this machine.

        Args:
            sha256: The fingerprint's hash.
            of: Whose features of what it holds, for the word about it where it is missing.
        """
        if sha256 not in self._banks:
            try:
                bank = Bank.open(self._bank_home / sha256[:16])
                self._banks[sha256] = bank if bank.fingerprint.sha256 == sha256 else None
            except BankError as error:
                self._banks[sha256] = None
                folder = self._bank_home / sha256[:16]
                why = str(error).splitlines()[0] if folder.exists() else "not on this machine (any more)"
                self.tell(f"neighbours and map of {of}, where they need its bank: {why}")
        return self._banks[sha256]

    def tell(self, reason: str) -> None:
        """Note why something is not shown, each reason once."""
        if reason not in self.missing:
            self.missing.append(reason)


@dataclass(frozen=True)
class Answers:
    """What a protocol took each image for.

    Attributes:
        name: Which of the protocol's answers: `k20`; empty where it has one.
        predicted: The class of each.
        right: Whether that is right.
    """

    name: str
    predicted: Int64[np.ndarray, " query"]
    right: Bool[np.ndarray, " query"]


@dataclass(frozen=True)
class Evidence:
    """A result and what lies behind it.

    Attributes:
        found: The result.
        shelf: Opens images and banks.
    """

    found: Found
    shelf: Shelf

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The predictions, by column; none where they are not there or are damaged."""
        if not self.found.predictions.is_file():
            return {}
        try:
            table = pq.read_table(self.found.predictions)
        except (OSError, pa.ArrowException) as error:
            self._tell(f"cannot be read: {str(error).splitlines()[0]}")
            return {}
        columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}
        odd = [name for name, values in columns.items() if not _as_written(name, values)]
        if odd:
            self._tell(f"have {', '.join(odd[:3])} of a kind that no evaluation writes")
            return {}
        return columns

    @cached_property
    def is_classified(self) -> bool:
        """Whether it says what each image was taken for; looked up without reading the predictions."""
        try:
            names = pq.read_schema(self.found.path.with_suffix(".parquet")).names
        except (OSError, pa.ArrowException):
            return False
        return {"index", "key", "label"} <= set(names) and any(name.startswith(PREDICTED) for name in names)

    @property
    def query_name(self) -> str:
        """The name under which the scored images stand in the record."""
        result = self.found.result
        if result.query_dataset == result.dataset:
            return result.query_split
        return f"{result.query_dataset} {result.query_split}"

    @cached_property
    def queries(self) -> Images | None:
        """The images that were scored, where they are at hand."""
        result = self.found.result
        manifest = result.data.get(self.query_name)
        images = self.shelf.images(result.query_dataset, result.query_split, manifest_sha256=manifest)
        numbers = self.columns.get("index", np.zeros(0))
        if images is None or not len(numbers) or 0 <= numbers.min() <= numbers.max() < len(images):
            return images
        self._tell(f"number images that {result.query_split} does not have")
        return None

    @cached_property
    def learnt(self) -> Images | None:
        """The images that were learnt from, where they are at hand."""
        result = self.found.result
        manifest = result.data.get(result.bank_split)
        return self.shelf.images(result.dataset, result.bank_split, manifest_sha256=manifest)

    @cached_property
    def query_bank(self) -> Bank | None:
        """The features of the images that were scored, where they are at hand."""
        return self._bank(self.query_name)

    @cached_property
    def bank(self) -> Bank | None:
        """The features of the images that were learnt from, where they are at hand."""
        return self._bank(self.found.result.bank_split)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that labels and predictions number; empty where nothing at hand tells them."""
        for holder in (self.bank, self.learnt):
            if holder is not None and holder.class_names:
                return holder.class_names
        return ()

    def name_of(self, label: int) -> str:
        """Return what a class is called."""
        names = self.class_names
        return names[label] if 0 <= label < len(names) else "no class" if label < 0 else f"class {label}"

    @cached_property
    def answers(self) -> list[Answers]:
        """What the images were taken for, by each of the protocol's settings."""
        if not self.is_classified:
            return []
        columns = self.columns
        found: list[Answers] = []
        for name, predicted in columns.items():
            if name.startswith(PREDICTED) and predicted.dtype.kind == "i":
                suffix = name.removeprefix(PREDICTED)
                right = columns.get(f"{RIGHT}{suffix}")
                same = predicted == columns["label"] if right is None else right.astype(bool)
                found.append(Answers(suffix.removeprefix("_"), predicted.astype(np.int64), same))
        return found

    @property
    def best_answers(self) -> Answers | None:
        """Those of the answers that are right most often; of equals the first."""
        return max(self.answers, key=lambda answers: answers.right.mean(), default=None)

    def _tell(self, what: str) -> None:
        self.shelf.tell(f"the predictions beside {self.found.path} {what}; evaluate again")

    def _bank(self, name: str) -> Bank | None:
        sha256 = self.found.result.banks.get(name)
        result = self.found.result
        of = f"{result.model} on {result.dataset}"
        return None if sha256 is None else self.shelf.bank(sha256, of=of)


def _as_written(name: str, values: np.ndarray) -> bool:
    """Tell whether a column of predictions is of the kind that evaluations write."""
    if name in WHOLE or (name.startswith(PREDICTED) and values.dtype.kind in "fO"):
        return values.dtype.kind in "iu"
    if name.startswith(NUMBERS):
        return values.dtype.kind in "iuf"
    return not name.startswith(RIGHT) or values.dtype.kind in "biu"


def newest_of_each(found: list[Found], *, fits: Callable[[Found], bool], most: int) -> list[Found]:
    """Return the newest fitting result of each model on each data set, as many as a page can show.

    Args:
        found: Results, the newest first.
        fits: Tells whether one will do.
        most: Of so many pairs of model and data set.
    """
    chosen: dict[tuple[str, str, str, str], Found] = {}
    for each in found:
        result = each.result
        key = (result.model, result.branch, result.weights_sha256, result.query_dataset)
        if key not in chosen and fits(each):
            chosen[key] = each
            if len(chosen) == most:
                break
    return list(chosen.values())
