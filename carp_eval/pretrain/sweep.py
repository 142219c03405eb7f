"""A sweep: one recipe trained with every choice of some values, and each run judged alike.

Each entry is a run of `carp train` in a folder of its own, named by what it changes and the hash of its whole recipe:
what is done is found again whatever other values the sweep has had or will have.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from carp_eval import distributed
from carp_eval.cards import loading
from carp_eval.cards.suite import EntryCard, SuiteCard
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import CarpError, UsageError
from carp_eval.evaluation.job import Settings
from carp_eval.evaluation.suite import Suite
from carp_eval.evaluation.suite_step import Step
from carp_eval.pretrain import grid, start, sweep_record
from carp_eval.pretrain.loop import Display
from carp_eval.pretrain.sweep_record import Entry, SweepRecord

SWEEPS = Path("sweeps")
LONGEST_NAME = 80

# Makes what an entry's training and evaluation are shown in.
Within = Callable[[Entry], AbstractContextManager[Display]]


@dataclass(frozen=True)
class Sweep:
    """A recipe, the values to try, and how each run is judged.

    Attributes:
        recipe: A recipe's name, or a path ending in `.toml`.
        grid: The values of each dotted key.
        folder: Where runs and records go.
        evaluations: Protocols that judge each run, `knn@dino`.
        settings: Where and how to train and evaluate.
    """

    recipe: str
    grid: dict[str, tuple[str, ...]]
    folder: Path
    evaluations: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)

    def check(self) -> None:
        """Make sure that all it is judged by is there.

        Raises:
            CarpError: If a protocol has no such variant, or is given as a card's path.
        """
        for name in self.evaluations:
            if name.endswith(".toml"):
                raise UsageError(
                    f"--eval takes KIND@VARIANT; judge by {name} afterwards, with carp eval --variant"
                )
            loading.protocol_named(name)

    def entries(self) -> list[Entry]:
        """Return every choice of values, and what is known of it.

        A choice that makes no recipe (more prototypes in a block than there are) has failed before it starts.

        Raises:
            CarpError: If none of them makes a recipe; the first one's error.
        """
        found: list[Entry] = []
        errors: list[CarpError] = []
        for changes in grid.combinations(self.grid):
            try:
                recipe = loading.recipe(self.recipe, changes)
            except CarpError as error:
                errors.append(error)
                found.append(Entry(changes=changes, folder="", state="failed", reason=str(error)))
                continue
            varied = {key: value for key, value in changes.items() if len(self.grid[key]) > 1}
            told = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in varied.items())
            name = f"{_plain(told)[:LONGEST_NAME]}{'-' if told else ''}{loading.fingerprint(recipe)[:8]}"
            entry = Entry(changes=changes, folder=str(self.folder / name))
            # What it is called may have changed since, where other values were beside it.
            now = {"changes": changes, "folder": entry.folder}
            found.append(sweep_record.known(entry).model_copy(update=now))
        if len(errors) == len(found):
            raise errors[0]
        return found

    def is_done(self, entry: Entry) -> bool:
        """Tell whether an entry was trained to its end and judged by all that is asked for."""
        return entry.state == "done" and set(self.evaluations) <= set(entry.evaluated)

    def run(self, within: Within) -> Iterator[Entry]:
        """Run what is not done, one entry after another, and yield each once it is settled.

        An entry that fails is told of, and the next one runs; a signal ends the sweep behind the entry that it stopped.

        Args:
            within: Makes what an entry is shown in.

        Raises:
            CarpError: If no choice of values makes a recipe.
            StorageError: If the record cannot be written.
        """
        for entry in self.entries():
            settled = entry
            if entry.folder and not self.is_done(entry):
                with within(entry) as display:
                    settled = self.run_one(entry, display)
            yield settled
            if settled.state == "stopped":
                return

    def run_one(self, entry: Entry, display: Display) -> Entry:
        """Train and judge one entry, keep what became of it, and return that."""
        self.note(entry.model_copy(update={"state": "running", "reason": ""}))
        try:
            settled = self._settled(entry, display)
        except (CarpError, MemoryError, torch.OutOfMemoryError) as error:
            settled = entry.model_copy(update={"state": "failed", "reason": str(error) or "memory is short"})
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return self.note(settled)

    def record(self) -> SweepRecord:
        """Write the record of all entries as they stand, and return it.

        Raises:
            StorageError: If the disk is full, read-only or closed to us.
        """
        with sweep_record.alone(self.folder):
            return sweep_record.save(self.stands(), self.folder)

    def stands(self) -> SweepRecord:
        """Return the record of all entries as they stand; nothing is written."""
        return sweep_record.of(
            recipe=self.recipe, grid=self.grid, evaluations=self.evaluations, entries=self.entries()
        )

    def note(self, entry: Entry) -> Entry:
        """Keep what became of an entry in its folder and in the sweep's record, and return it."""
        kept = distributed.on_main(lambda: sweep_record.keep(entry))
        distributed.on_main(self.record)
        return kept

    def _settled(self, entry: Entry, display: Display) -> Entry:
        folder = Path(entry.folder)
        if not _is_trained(folder):
            settings = self.settings
            plan = start.plan(
                self.recipe,
                display=display,
                changes=entry.changes,
                folder=folder,
                data_root=settings.data_root,
                device=settings.device,
                num_workers=settings.num_workers,
                skip_bad=settings.skip_bad,
            )
            if start.train(plan).stopped_by is not None:
                return entry.model_copy(update={"state": "stopped", "reason": ""})
        return self._judged(entry, display)

    def _judged(self, entry: Entry, display: Display) -> Entry:
        """Run the evaluations that are not done yet, as a suite of them would."""
        judged = entry.model_copy(update={"state": "done", "reason": "", "scores": {}, "evaluated": ()})
        if not self.evaluations:
            return judged
        cards = [
            EntryCard(kind=name.partition("@")[0], variant=name.partition("@")[2])
            for name in self.evaluations
        ]
        card = SuiteCard(version=1, summary="the evaluations of a sweep", entries=tuple(cards))
        suite = Suite(card, lambda layer: open_model(entry.folder, layer=layer), settings=self.settings)

        scores: dict[str, float] = {}
        evaluated: list[str] = []
        reasons: list[str] = []
        for step in suite.run(suite.plan(), within=partial(_told, display, self.settings)):
            name = step.entry.protocol
            if step.record is None:
                reasons.append(f"{name}: {step.reason}")
                continue
            evaluated.append(name)
            scores |= {f"{name} {metric}": score.value for metric, score in step.scores(())}
        return judged.model_copy(
            update={
                "state": "failed" if reasons else "done",
                "reason": "; ".join(reasons),
                "scores": scores,
                "evaluated": tuple(evaluated),
            }
        )


def folder_for(recipe: str, grid: Mapping[str, Sequence[str]]) -> Path:
    """Return where a sweep goes whose folder nobody names: in `sweeps`, by the recipe and the keys.

    The same keys with other values lead there again, so that a grid can grow.
    """
    keys = "+".join(["", *(key for key, values in grid.items() if len(values) > 1)])
    return SWEEPS / _plain(f"{Path(recipe).stem}{keys}")[:LONGEST_NAME]


def _told(display: Display, settings: Settings, step: Step) -> AbstractContextManager[Settings]:
    display.say(f"evaluating: {step.title}")
    return nullcontext(settings)


def _is_trained(folder: Path) -> bool:
    """Tell whether a run has come to its end."""
    path = folder / "run.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("state") == "finished"


def _plain(text: str) -> str:
    """Return a text as a part of a folder's name."""
    return "".join(letter if letter.isalnum() or letter in "+-_.=," else "-" for letter in text)
