"""The results of a model that lie on this disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carp_eval import results
from carp_eval.errors import CardError, DataError, UsageError
from carp_eval.models.model import Model
from carp_eval.results import Result


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        results: The model's records, the oldest first, and where each lies.
        others: How many are of other weights.
        unreadable: What is wrong with those that cannot be read.
    """

    results: tuple[tuple[Path, Result], ...]
    others: int
    unreadable: tuple[str, ...]


def of(model: Model, folder: Path | None = None) -> Measured:
    """Find a model's results, by the hash of its weights.

    Args:
        model: The model.
        folder: Where to look; None looks where `carp eval` writes them: in the model's run, and in `./results`.

    Raises:
        UsageError: If the folder is not there.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder of results at {folder}")
    places: Sequence[Path] = (
        (folder,)
        if folder is not None
        else (*((model.folder / "results",) if model.folder else ()), Path("results"))
    )
    found: dict[Path, Result] = {}
    others, unreadable = 0, list[str]()
    for path in dict.fromkeys(path.resolve() for place in places for path in sorted(place.glob("*.json"))):
        try:
            result = results.load(path)
        except (CardError, DataError) as error:
            unreadable.append(str(error))
            continue
        if result.weights_sha256 == model.weights_sha256:
            found[path] = result
        else:
            others += 1
    ordered = sorted(found.items(), key=lambda each: (each[1].finished, each[0].name))
    return Measured(tuple(ordered), others, tuple(unreadable))
