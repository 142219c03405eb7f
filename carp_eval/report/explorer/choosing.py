"""Which banks are looked at, and whether the models that made them can be opened to embed other images."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from carp_eval import files
from carp_eval.checkpoints import runs
from carp_eval.checkpoints.opening import Branch, Layer, open_model
from carp_eval.errors import BankError, CarpError, UsageError
from carp_eval.features import bank as banks
from carp_eval.features import known_banks
from carp_eval.features.bank import Bank
from carp_eval.models.model import Model

# Of a model's banks, that of the images it is judged on comes first.
SPLITS = ("test", "validation", "val", "train")
# What the leak check banks: pictures, not a model's features.
THUMBNAILS = "thumbnails"
_BRANCHES: dict[str, Branch] = {name: name for name in get_args(Branch)}
_LAYERS: dict[str, Layer] = {name: name for name in get_args(Layer)}


@dataclass(frozen=True)
class Wanted:
    """What a user said of the bank that is to be looked at.

    Attributes:
        model: How its model is spelled; None is the one that the bank names, or the last run's.
        dataset: Its data set.
        split: Its split.
        branch: Which of two networks.
        layer: Which output.
        home: Folder that holds banks; None is `$CARP_HOME/banks`.
    """

    model: str | None = None
    dataset: str | None = None
    split: str | None = None
    branch: Branch | None = None
    layer: Layer = "pool"
    home: Path | None = None


@dataclass(frozen=True)
class Chosen:
    """A bank and the model that made it.

    Attributes:
        bank: The bank.
        model: The model; None where it cannot be opened.
        closed: Why not; empty where it can.
    """

    bank: Bank
    model: Model | None
    closed: str = ""


def choose(path: Path | None, wanted: Wanted) -> Chosen:
    """Find the bank to look at.

    Args:
        path: Its folder; None looks for one of a model.
        wanted: What else was said of it.

    Raises:
        BankError: If the folder holds no finished bank.
        UsageError: If no bank fits; the message says how to make one.
        CarpError: If a model was named and cannot be opened.
    """
    if path is not None:
        return _of_folder(path, wanted)
    if wanted.model is None and wanted.dataset is None and not list(runs.RUNS.glob(f"*/{runs.LAST}")):
        return _newest(wanted)
    opened = open_model(wanted.model, branch=wanted.branch, layer=wanted.layer)
    return Chosen(_of_model(opened, wanted), opened)


def beside(first: Bank, spelled: str, wanted: Wanted) -> Chosen:
    """Find the bank to look at beside another: of the same images.

    Args:
        first: The bank that it stands beside.
        spelled: A bank's folder, or a model.
        wanted: Which output of a model, and where banks are.

    Raises:
        UsageError: If it is the same bank, of other images, or if the model has none of these images.
        CarpError: If it cannot be opened.
    """
    folder = Path(spelled).expanduser()
    if (folder / banks.RECORD).is_file():
        chosen = _of_folder(folder, Wanted(home=wanted.home))
        _check_same_images(first, chosen.bank)
    else:
        opened = open_model(spelled, layer=wanted.layer)
        there = _banks_of(opened, wanted)
        same = [
            bank
            for bank in there
            if bank.fingerprint.manifest_sha256 == first.fingerprint.manifest_sha256
            and bank.fingerprint.sha256 != first.fingerprint.sha256
        ]
        if not same:
            record = first.record
            raise UsageError(
                f"{opened.name} has no other bank of the same images, {record.dataset} ({record.split}): "
                f"{_told(there)}. Make one with: carp extract -m {spelled} -d {record.dataset} --split {record.split}"
            )
        chosen = Chosen(_most_alike(same, first), opened)
    if chosen.bank.fingerprint.sha256 == first.fingerprint.sha256:
        raise UsageError(f"{spelled} is the bank that is looked at already: name another beside it")
    return chosen


def _of_folder(path: Path, wanted: Wanted) -> Chosen:
    bank = Bank.open(path)
    fingerprint = bank.fingerprint
    layer = _LAYERS.get(fingerprint.layer)
    if layer is None:
        return Chosen(bank, None, f"its features are of {fingerprint.layer}, which a protocol makes")
    reasons: list[str] = []
    for spelled in [wanted.model] if wanted.model else _spellings(bank):
        try:
            opened = open_model(spelled, branch=_BRANCHES.get(fingerprint.branch), layer=layer)
        except CarpError as error:
            reasons.append(str(error).partition("\n")[0])
            continue
        if opened.weights_sha256 == fingerprint.weights_sha256:
            return Chosen(bank, opened)
        reasons.append(f"{spelled} has other weights than those that made this bank")
    if wanted.model:
        raise UsageError(f"{path} cannot be looked at with {wanted.model}: {reasons[0]}")
    return Chosen(bank, None, reasons[0])


def _spellings(bank: Bank) -> list[str]:
    """List what may lead to a bank's model: a run is noted by its folder's name alone."""
    name = bank.record.model
    below = [] if "/" in name or not name else [runs.RUNS / name, *sorted(Path("sweeps").glob(f"*/{name}"))]
    return [*(str(path) for path in below if path.is_dir()), name]


def _of_model(opened: Model, wanted: Wanted) -> Bank:
    there = _banks_of(opened, wanted)
    fitting = [
        bank
        for bank in there
        if wanted.dataset in (None, bank.record.dataset) and wanted.split in (None, bank.record.split)
    ]
    if not fitting:
        asked = f" on {wanted.dataset}" if wanted.dataset else ""
        asked += f" ({wanted.split})" if wanted.split else ""
        dataset = wanted.dataset or opened.dataset or "DATASET"
        spelled = "" if wanted.model is None else f" -m {wanted.model}"
        raise UsageError(
            f"{opened.name} has no bank of {opened.layer}{asked}: {_told(there)}. Make one with: "
            f"carp extract{spelled} -d {dataset}"
        )
    return min(fitting, key=_place)


def _banks_of(opened: Model, wanted: Wanted) -> list[Bank]:
    """Return a model's banks of one layer.

    All that have no weights have one hash: raw pixels of two recipes are told apart by how images become numbers.
    """
    return [
        bank
        for bank in known_banks.of_weights(opened.weights_sha256, home=wanted.home)
        if bank.fingerprint.layer == opened.layer
        and bank.dim == opened.feature_dim
        and bank.record.model != THUMBNAILS
        and _normalised_for(bank, opened)
    ]


def _normalised_for(bank: Bank, model: Model) -> bool:
    told = bank.fingerprint.preprocessing
    return all(tuple(told.get(name, ())) == getattr(model.input, name) for name in ("mean", "std"))


def _newest(wanted: Wanted) -> Chosen:
    found: list[Bank] = []
    home = wanted.home or files.home() / "banks"
    for path in home.glob(f"*/{banks.RECORD}"):
        # One that is damaged or of an older schema is not what is looked for.
        with suppress(BankError):
            bank = Bank.open(path.parent)
            fits = bank.fingerprint.layer == wanted.layer and wanted.split in (None, bank.record.split)
            found += [bank] if fits and bank.record.model != THUMBNAILS else []
    if not found:
        raise UsageError(
            f"there is no bank to look at in {home}: make one with carp extract, or with any protocol, such as "
            "carp eval knn"
        )
    return _of_folder(max(found, key=lambda bank: bank.record.created).path, wanted)


def _place(bank: Bank) -> tuple[int, list[int]]:
    split = bank.record.split
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), [-ord(c) for c in bank.record.created]


def _most_alike(there: Sequence[Bank], first: Bank) -> Bank:
    """Return the bank whose settings are most like another's; of equals the newest."""
    return max(
        there,
        key=lambda bank: (-len(bank.fingerprint.differences(first.fingerprint)), bank.record.created),
    )


def _check_same_images(first: Bank, second: Bank) -> None:
    mine, others = first.record, second.record
    if mine.fingerprint.manifest_sha256 == others.fingerprint.manifest_sha256:
        return
    told = [
        f"{name}: {getattr(mine, name)} and {getattr(others, name)}"
        for name in ("dataset", "split", "images")
        if getattr(mine, name) != getattr(others, name)
    ]
    raise UsageError(
        f"{first.path} and {second.path} are banks of different images ("
        f"{'; '.join(told) or 'keys, labels or files have changed in between'}): only features of the same images "
        "stand beside each other"
    )


def _told(there: Sequence[Bank]) -> str:
    if not there:
        return "it has none at all"
    named = [f"{bank.record.dataset} ({bank.record.split}, {bank.fingerprint.layer})" for bank in there]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return f"there is {', '.join(named[:5])}{more}"
