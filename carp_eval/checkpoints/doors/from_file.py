"""Models in files of others, whose format is told from their entries."""

from pathlib import Path

from carp_eval.checkpoints import assembling, entries, reading, training
from carp_eval.checkpoints.assembling import Branch, Layer
from carp_eval.checkpoints.doors import from_training
from carp_eval.checkpoints.recognising import recognise
from carp_eval.models.model import Model


def opened(
    file: Path, *, branch: Branch | None, layer: Layer, name: str | None = None, notes: tuple[str, ...] = ()
) -> Model:
    """Open a checkpoint file: one of `carp train`, or of any format that is recognised.

    Args:
        file: The file.
        branch: Which of two networks.
        layer: `projection` for ours alone.
        name: What results should call it; None is the file.
        notes: What whoever reads its scores must know, beside what was found.

    Raises:
        CheckpointError: If it cannot be read, is not recognised, or is not exactly the trunk it seems to be.
        UsageError: If it has no such branch or layer.
    """
    content = reading.read(file)
    if content.get("format") == training.FORMAT:
        return from_training.trained(file, branch=branch, layer=layer)
    name = name or str(file)
    found = recognise.recognise(content, where=str(file))
    assembling.check_pool(name, layer)
    chosen = assembling.branch_of(found.branches, branch, name=name)
    return assembling.of_trunk(
        name,
        found.architecture,
        entries.select(content, found.branches[chosen], where=str(file)),
        where=str(file),
        branch="" if chosen == "single" else chosen,
        notes=(*notes, f"recognised: {_line(found.describe())}", assembling.ASSUMED_INPUT),
    )


def _line(text: str) -> str:
    """Put lines behind one another."""
    return "; ".join(line.strip() for line in text.splitlines())
