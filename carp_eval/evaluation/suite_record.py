"""The record of a suite: what became of each entry, and where each evaluation's own record lies."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from carp_eval import files
from carp_eval.cards.frozen import Frozen
from carp_eval.evaluation.suite import Suite
from carp_eval.evaluation.suite_step import Step
from carp_eval.results import Score

SCHEMA_VERSION = 1
FOLDER = "suites"


class Shown(Frozen):
    """A score, and what the suite calls it."""

    name: str
    score: Score


class Row(Frozen):
    """One entry.

    Attributes:
        protocol: Its protocol's card.
        dataset: The data set whose images were scored.
        learnt_from: The data set its bank is of.
        state: What became of it.
        reason: Why it was skipped, or how it failed.
        record: The evaluation's record.
        scores: The scores that the suite shows.
    """

    protocol: str
    dataset: str
    learnt_from: str
    state: str
    reason: str = ""
    record: str | None = None
    scores: tuple[Shown, ...] = ()


class Average(Frozen):
    """A mean over all entries.

    Attributes:
        name: What it is called.
        score: The mean; None while an entry lacks the score.
        entries: How many have it.
    """

    name: str
    score: Score | None
    entries: int


class SuiteRecord(Frozen):
    """A suite that was run for one model."""

    schema_version: int = SCHEMA_VERSION
    suite: str
    model: str
    checkpoint: str = ""
    branch: str
    weights_sha256: str
    seed: int
    finished: str
    rows: tuple[Row, ...]
    averages: tuple[Average, ...] = ()


def record(suite_name: str, suite: Suite, steps: Sequence[Step], *, checkpoint: str = "") -> SuiteRecord:
    """Sum up what became of a suite.

    Args:
        suite_name: What it is called.
        suite: The suite.
        steps: What became of its entries.
        checkpoint: The epoch of the model, where several of a run are judged.
    """
    rows = tuple(
        Row(
            protocol=step.entry.protocol,
            dataset=step.entry.queries or step.dataset,
            learnt_from=step.dataset,
            state=step.state,
            reason=step.reason,
            record=None if step.path is None else str(step.path),
            scores=tuple(Shown(name=name, score=score) for name, score in step.scores(suite.card.shown)),
        )
        for step in steps
    )
    return SuiteRecord(
        suite=suite_name,
        model=suite.model.name,
        checkpoint=checkpoint,
        branch=suite.model.branch,
        weights_sha256=suite.model.weights_sha256,
        seed=suite.seed,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=rows,
        averages=tuple(
            Average(name=average.name, score=score, entries=count)
            for average, score, count in suite.averages(steps)
        ),
    )


def save(found: SuiteRecord, folder: Path) -> Path:
    """Write a suite's record into a folder of its own, beside the evaluations'.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    stamp = found.finished.replace(":", "").replace("-", "").partition("+")[0]
    epoch = f"-{found.checkpoint}" if found.checkpoint else ""
    path = folder / FOLDER / f"{Path(found.suite).stem}{epoch}-{stamp}.json"
    files.write_text(path, found.model_dump_json(indent=2) + "\n")
    return path
