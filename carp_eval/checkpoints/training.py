"""Training checkpoints: all that is needed to go on to the bit, in one file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carp_eval import files
from carp_eval.cards import loading
from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints.reading import read
from carp_eval.errors import CheckpointError, StorageError

FORMAT = "carp-eval training checkpoint"
VERSION = 1


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A training, stopped between two steps.

    Attributes:
        recipe: What is being trained.
        step: Steps taken.
        world_size: Processes it ran on; going on to the bit needs as many.
        student: The student's state: `trunk.*`, `head.*`, and what its method adds (CARP: `prototypes.weight`).
        teacher: The teacher's; empty where there is none.
        optimiser: The optimiser's state.
        method: What else its method keeps: queues, assignments.
    """

    recipe: RecipeCard
    step: int
    world_size: int
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    optimiser: dict[str, Any]
    method: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def save(path: Path, checkpoint: TrainingCheckpoint) -> None:
    """Write a checkpoint whole, or leave the one that was there.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": checkpoint.recipe.model_dump_json(),
        "step": checkpoint.step,
        "world_size": checkpoint.world_size,
        "student": checkpoint.student,
        "teacher": checkpoint.teacher,
        "optimiser": checkpoint.optimiser,
        "method": checkpoint.method,
    }
    with files.replacing(path) as beside:
        try:
            torch.save(content, beside)
        except RuntimeError as error:
            # What the disk answered is lost inside torch's writer, which says where it stood.
            raise StorageError(
                f"cannot write {path}: the writing broke off ({str(error).splitlines()[0]}), most often because the "
                "disk is full; the checkpoint before is whole. Free some space and go on from it"
            ) from error


def load(path: Path) -> TrainingCheckpoint:
    """Read a checkpoint; tensors stay in the file until they are used.

    Raises:
        CheckpointError: If it is unreadable, not one of ours, or of a newer version.
    """
    content = read(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of `carp train`: it holds {', '.join(sorted(map(str, content))[:6])}"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a training checkpoint of version {content.get('version')}; this release reads "
            f"version {VERSION}: use the release that wrote it"
        )
    try:
        recipe = loading.as_recipe(json.loads(content["recipe"]), where=f"the recipe inside {path}")
        return TrainingCheckpoint(
            recipe=recipe,
            step=int(content["step"]),
            world_size=int(content["world_size"]),
            student=content["student"],
            teacher=content["teacher"],
            optimiser=content["optimiser"],
            # Files of the first release have none, and its method, CARP, needs none.
            method=content.get("method", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its part {error} is missing or malformed") from error
