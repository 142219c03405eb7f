"""Which run a training goes on with: one that is named, or the one that these processes had begun before they died."""

from dataclasses import dataclass
from pathlib import Path

from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints import runs, training
from carp_eval.errors import CheckpointError, TrainingError, UsageError


@dataclass(frozen=True)
class Begun:
    """What there is of a run.

    Attributes:
        folder: Its folder; None for a new one.
        recipe: What it trains; None if it says nothing yet.
        checkpoint: Where it stood; None for the beginning.
        stamp: When the checkpoint was written, in nanoseconds; 0 where there is none.
    """

    folder: Path | None = None
    recipe: RecipeCard | None = None
    checkpoint: training.TrainingCheckpoint | None = None
    stamp: int = 0


def to_resume(resume: str, *, runs_root: Path, launchers: list[str]) -> Begun:
    """Return the run to go on with.

    Args:
        resume: Its folder, or `last`. Of processes that were started again, that is the run that they went on with.
        runs_root: Folder that holds the runs.
        launchers: Of `distributed.launchers`.

    Raises:
        UsageError: If it is no run.
        CheckpointError: If its checkpoint is damaged.
    """
    if resume == "last":
        folder = runs.begun_by(launchers, root=runs_root) or runs.last_begun(root=runs_root)
    else:
        folder = Path(resume).expanduser()
    begun = of_folder(folder)
    if begun.recipe is None:
        raise UsageError(f"{folder} is no run: it has neither {runs.LAST} nor {runs.RECIPE}")
    return begun


def to_begin(recipe: RecipeCard, *, folder: Path | None, runs_root: Path, launchers: list[str]) -> Begun:
    """Return the run that a recipe is trained in: a new one, unless it was begun.

    Args:
        recipe: What to train.
        folder: The run's folder; left out, a new one, or the one that these processes had begun.
        runs_root: Folder that holds the runs.
        launchers: Of `distributed.launchers`.

    Raises:
        TrainingError: If the folder holds a run of another recipe.
        CheckpointError: If its checkpoint is damaged.
    """
    if folder is None:
        earlier = runs.begun_by(launchers, root=runs_root, recipe=recipe)
        return Begun() if earlier is None else of_folder(earlier)
    begun = of_folder(folder)
    if begun.checkpoint is not None and begun.recipe != recipe:
        raise TrainingError(
            f"{folder} holds a run of another recipe than it is to hold: train in another folder, or move that one away"
        )
    return begun


def of_folder(folder: Path) -> Begun:
    """Return what there is of a run in a folder.

    Raises:
        CheckpointError: If its checkpoint is damaged; it says which others were kept.
    """
    path = folder / runs.LAST
    if path.is_file():
        stamp = path.stat().st_mtime_ns
        try:
            checkpoint = training.load(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {_instead(folder)}") from error
        return Begun(folder, checkpoint.recipe, checkpoint, stamp)
    if (folder / runs.RECIPE).is_file():
        # Killed before its first checkpoint: the recipe is all there is, and all that is needed.
        return Begun(folder, runs.read_recipe(folder))
    return Begun(folder)


def _instead(folder: Path) -> str:
    kept = sorted((folder / runs.LAST).parent.glob("epoch-*.pt"))
    if kept:
        return f"An earlier one was kept; to go on from it: cp {kept[-1]} {folder / runs.LAST}"
    return f"No earlier one was kept; without it, --resume begins the run anew: rm {folder / runs.LAST}"
