"""What a report is of: results, and the trainings that they are of or that are named."""

from collections.abc import Callable, Sequence
from pathlib import Path

from carp_eval.errors import UsageError
from carp_eval.pretrain import journal
from carp_eval.report import found as founds
from carp_eval.report.found import Found


def gather(
    models: Sequence[str], *, roots: Sequence[Path] = (), unreadable: Callable[[str], None] = founds.ignore
) -> tuple[list[Found], list[Path]]:
    """Return results and folders of trainings, the newest first of each.

    Args:
        models: Spelled as for `found.results`; a run without a result will do too. None is all.
        roots: Where to look; none are `runs`, `sweeps` and `results`, here.
        unreadable: Is told of each record that cannot be read.

    Raises:
        UsageError: If a model is neither a run nor has a result.
    """
    if not models:
        folders = [
            path.parent
            for root in roots or founds.ROOTS
            for depth in founds.RUN_DEPTHS
            for path in root.glob(depth + journal.LOG)
        ]
        found = founds.results(roots=roots, unreadable=unreadable)
        return found, trainings(found, named=folders)
    every: dict[Path, Found] = {}
    named: list[Path] = []
    for model in models:
        folder = Path(model).expanduser()
        is_run = (folder / journal.LOG).is_file()
        named += [folder] if is_run else []
        try:
            of_model = founds.results([model], roots=roots, unreadable=unreadable)
        except UsageError:
            if not is_run:
                raise
            of_model = []
        every |= {each.path.resolve(): each for each in of_model}
    found = sorted(every.values(), key=lambda each: (each.result.finished, each.path.name), reverse=True)
    return found, trainings(found, named=named)


def trainings(found: Sequence[Found], *, named: Sequence[Path] = ()) -> list[Path]:
    """Return the folders of trainings that results lie in, or that are named, the last written to first."""
    folders = {folder.resolve(): folder for folder in (*named, *(each.path.parent.parent for each in found))}
    logged = [folder for folder in folders.values() if (folder / journal.LOG).is_file()]
    return sorted(logged, key=lambda folder: (folder / journal.LOG).stat().st_mtime, reverse=True)
