"""The banks of one model: those on this machine, and one that came from elsewhere."""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from carp_eval import files
from carp_eval.errors import BankError
from carp_eval.features import bank as banks
from carp_eval.features.bank import Bank


def of_weights(weights_sha256: str, *, home: Path | None = None) -> list[Bank]:
    """Return every bank of a model, by data set and split; those that cannot be opened are not among them.

    Models without weights, such as raw pixels of any size, share one hash: what tells their banks apart is how images
    became numbers (`fingerprint.preprocessing`).

    Args:
        weights_sha256: Hash of the model's weights.
        home: Folder that holds banks; None is `$CARP_HOME/banks`.
    """
    mine: list[Bank] = []
    for path in (home or files.home() / "banks").glob(f"*/{banks.RECORD}"):
        # One that is damaged or of an older schema may be of any model, and of no use to this one.
        with suppress(BankError):
            bank = Bank.open(path.parent)
            mine += [bank] if bank.fingerprint.weights_sha256 == weights_sha256 else []
    return sorted(mine, key=lambda bank: (bank.record.dataset, bank.record.split, str(bank.path)))


def check(folder: Path, *, weights_sha256: str) -> Bank:
    """Open a bank that someone else made, once every byte of it was read and is as it should be.

    What cannot be told is whether its rows are the features of the images that it names: that is to be taken on trust,
    or extracted anew.

    Args:
        folder: The bank.
        weights_sha256: Hash of the weights that its features should be of.

    Raises:
        BankError: If it is damaged, of other weights, or names files that are not its own.
    """
    bank = Bank.open(folder)
    outside = [shard.file for shard in bank.record.shards if Path(shard.file).name != shard.file]
    if outside:
        raise BankError(f"{folder} names files outside itself ({', '.join(outside[:3])}): it is not used")
    if bank.fingerprint.weights_sha256 != weights_sha256:
        raise BankError(f"{folder} is a bank of other weights than those it came with: it is not used")
    problems = bank.verify()
    if not problems:
        problems = _shape_problems(bank)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise BankError(f"{folder} is damaged, and is not used:\n{listed}")
    return bank


def keep(bank: Bank, *, home: Path | None = None) -> Path:
    """Copy a bank to where protocols look for theirs, and return its folder there; one that is there is kept.

    Args:
        bank: A bank that `check` has passed.
        home: Folder that holds banks; None is `$CARP_HOME/banks`.

    Raises:
        StorageError: If the disk refuses.
    """
    place = banks.folder(bank.fingerprint, home)
    files.make_folder(place.parent)
    with files.locked(place):
        if (place / banks.RECORD).is_file():
            return place
        with (
            files.storage_errors(place),
            tempfile.TemporaryDirectory(dir=place.parent, prefix=".coming-") as beside,
        ):
            whole = Path(beside) / "bank"
            whole.mkdir()
            for name in (*(shard.file for shard in bank.record.shards), banks.RECORD):
                shutil.copyfile(bank.path / name, whole / name)
            if place.is_dir():
                shutil.rmtree(place)
            whole.rename(place)
    return place


def _shape_problems(bank: Bank) -> list[str]:
    """Say where rows are not as many, or not as wide, as the record says, or no numbers."""
    found: list[str] = []
    for shard, features in zip(bank.record.shards, bank.shards(), strict=True):
        if tuple(features.shape) != (shard.rows, bank.dim):
            found.append(
                f"{shard.file} holds {tuple(features.shape)} instead of {(shard.rows, bank.dim)} features"
            )
        elif not bool(features.isfinite().all()):
            found.append(f"{shard.file} holds features that are no numbers")
    if not found and not len(bank.labels) == len(bank.index) == len(bank.keys) == len(bank):
        found.append("its labels, numbers or keys are not as many as its rows")
    return found
