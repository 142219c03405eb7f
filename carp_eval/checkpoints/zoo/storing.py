"""Keeping the trunks of a file on this machine as safetensors, reading them again, and making sure of them."""

import json
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import safetensors.torch
from torch import Tensor

from carp_eval import files
from carp_eval.cards import shelf, writing
from carp_eval.cards.checkpoint import BranchName, CheckpointCard
from carp_eval.checkpoints import assembling, entries, reading
from carp_eval.checkpoints.containers import flat
from carp_eval.checkpoints.zoo.pulled import CARD, RECORD, Origin, Pulled, folder
from carp_eval.errors import CarpError, CheckpointError, UsageError
from carp_eval.models.model import weights_sha256


def add(name: str, card: CheckpointCard, file: Path, *, source: str, untrained: bool = False) -> Pulled:
    """Read a file as its card says, and keep the trunks in it under a name: all of them, or nothing.

    Args:
        name: What to call it.
        card: How the file is read, and what its makers say.
        file: The file.
        source: Where it came from.
        untrained: Whether weights as they were initialised will do.

    Raises:
        CheckpointError: If the file cannot be read, is not exactly the trunks that the card says, or their features are
            those of no trained network.
        StorageError: If the disk is full or refuses.
    """
    states = read(card, file, untrained=untrained)
    origin = Origin(
        source=source,
        file_sha256=files.sha256(file),
        size=file.stat().st_size,
        found=described(card),
        branches={branch: weights_sha256(state) for branch, state in states.items()},
        untrained=untrained,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    target = folder(name)
    with files.locked(target), _beside(target) as beside:
        for branch, state in states.items():
            path = beside / f"{branch}.safetensors"
            # safetensors' own writer hides the system's error numbers, by which a full disk is told from others.
            path.write_bytes(safetensors.torch.save(state, metadata={"format": "pt"}))
        if name not in shelf.names(shelf.ZOO):
            (beside / CARD).write_text(writing.toml(card), encoding="utf-8")
        (beside / RECORD).write_text(
            json.dumps(origin.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8"
        )
    return Pulled(name, card, target, origin)


def read(card: CheckpointCard, file: Path, *, untrained: bool = False) -> dict[BranchName, dict[str, Tensor]]:
    """Read a file as its card says, and try each trunk in it.

    Args:
        card: How the file is read.
        file: The file.
        untrained: Whether weights as they were initialised will do.

    Returns:
        The entries of each trunk, by branch.

    Raises:
        CheckpointError: As `add`.
    """
    content = reading.read(file, member=card.weights.member)
    states: dict[BranchName, dict[str, Tensor]] = {}
    for branch, how in card.weights.branches.items():
        where = f"{file}" if branch == "single" else f"the {branch} in {file}"
        state = entries.select(content, how, where=where)
        states[branch] = _tried(card, state, where=where, untrained=untrained)
    return states


def state(pulled: Pulled, branch: BranchName | None = None) -> tuple[BranchName, dict[str, Tensor]]:
    """Return the entries of a trunk.

    Args:
        pulled: The model.
        branch: Which network; None is the one that is judged if none is named.

    Raises:
        UsageError: If it has no such branch.
        CheckpointError: If its file is missing or damaged.
    """
    branch = branch or next(iter(pulled.card.weights.branches))
    if branch not in pulled.origin.branches:
        raise UsageError(
            f"{pulled.name} has no branch {branch!r}; it has {', '.join(pulled.origin.branches)}"
        )
    path = pulled.folder / f"{branch}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: have the model again with carp pull {pulled.name} --force")
    return branch, flat.read(path)


def verify(pulled: Pulled) -> list[str]:
    """Read every byte of a model, hold it against its record and its card, and try its features.

    Returns:
        What is wrong, in words; nothing where all is well.
    """
    problems: list[str] = []
    card, origin = pulled.card, pulled.origin
    if set(card.weights.branches) != set(origin.branches):
        problems.append(
            f"its card has {', '.join(card.weights.branches)}, and what is here is {', '.join(origin.branches)}"
        )
    if card.weights.sha256 and card.weights.sha256 != origin.file_sha256:
        problems.append(
            f"it came from a file of sha256 {origin.file_sha256[:12]}..., and its card has "
            f"{card.weights.sha256[:12]}..."
        )
    for branch, wanted in origin.branches.items():
        try:
            _, found = state(pulled, branch)
            if weights_sha256(found) != wanted:
                problems.append(f"{branch}: the weights are not those that were stored")
            _tried(card, found, where=f"{branch} of {pulled.name}", untrained=origin.untrained)
        except CarpError as error:
            problems.append(str(error))
    return problems


def described(card: CheckpointCard) -> str:
    """Say how a card reads a file, in a line."""
    parts: list[str] = []
    for branch, how in card.weights.branches.items():
        under = " > ".join(how.wrapper) or "the top level"
        stripped = f" without {', '.join(how.strip)}" if how.strip else ""
        dropped = f" and without {', '.join(how.drop)}" if how.drop else ""
        parts.append(f"{branch}: a {card.architecture} under {under}{stripped}{dropped}")
    return "; ".join(parts)


def _tried(
    card: CheckpointCard, state: Mapping[str, Tensor], *, where: str, untrained: bool
) -> dict[str, Tensor]:
    model_input = assembling.input_of(card.input)
    trunk = assembling.filled(
        card.architecture, state, model_input=model_input, where=where, untrained=untrained
    )
    return {name: value.contiguous() for name, value in trunk.state_dict().items()}


@contextmanager
def _beside(target: Path) -> Generator[Path]:
    """Give a folder to fill, and put it in the place of `target` once the block ends well; else leave nothing."""
    # One level further down, where nobody looks for cards.
    waiting = files.make_folder(target.parent / ".unfinished")
    with files.storage_errors(target):
        beside = Path(tempfile.mkdtemp(dir=waiting, prefix=f"{target.name}-"))
    try:
        with files.storage_errors(target):
            filled = beside / "new"
            filled.mkdir()
            yield filled
            if target.exists():
                target.rename(beside / "old")
            filled.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
