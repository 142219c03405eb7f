"""Run folders: where a training keeps its recipe, checkpoints, logs and results."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carp_eval import files
from carp_eval.cards import loading
from carp_eval.cards.recipe import RecipeCard
from carp_eval.errors import CheckpointError, UsageError

RUNS = Path("runs")
LAST = "checkpoints/last.pt"
RECIPE = "recipe.json"


def new_folder(recipe_name: str, *, root: Path = RUNS) -> Path:
    """Make and return `<root>/<time>-<recipe>`.

    Raises:
        StorageError: If the folder cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = root / f"{stamp}-{recipe_name}"
    number = 2
    while folder.exists():
        folder = root / f"{stamp}-{recipe_name}-{number}"
        number += 1
    return files.make_folder(folder)


def last_folder(*, root: Path = RUNS) -> Path:
    """Return the run that was trained last.

    Raises:
        UsageError: If no run has a checkpoint yet.
    """
    runs = [path.parent.parent for path in root.glob(f"*/{LAST}")]
    if not runs:
        raise UsageError(
            f"no model was named and {root}/ holds no trained run: train one with `carp train`, "
            "or name a model with -m"
        )
    return max(runs, key=lambda folder: ((folder / LAST).stat().st_mtime, folder.name))


def checkpoint_path(folder: Path) -> Path:
    """Return a run's newest checkpoint.

    Raises:
        CheckpointError: If it has none.
    """
    path = folder / LAST
    if not path.is_file():
        raise CheckpointError(f"{folder} is no trained run: it has no {LAST}")
    return path


def read_recipe(folder: Path) -> RecipeCard:
    """Return the recipe a run was started with.

    Raises:
        CardError: If the file is broken.
    """
    path = folder / RECIPE
    return loading.as_recipe(loading.read_json(path), where=str(path))


def write_state(folder: Path, **state: Any) -> None:
    """Record how a run stands, in its `run.json`, over what it said before."""
    path = folder / "run.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    files.write_text(path, json.dumps(known | state, indent=2) + "\n")
