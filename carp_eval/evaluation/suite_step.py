"""One entry of a suite and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.suite import EntryCard, ShownCard
from carp_eval.results import Result, Score, Setting

State = Literal["to run", "done before", "done", "skipped", "failed", "missing"]


@dataclass(frozen=True)
class Step:
    """One entry of a suite, and what became of it.

    Attributes:
        entry: The entry.
        state: What became of it, or would.
        card: Its protocol's card; None where that is broken.
        dataset: The data set its bank is of; empty where none is known.
        reason: Why it was skipped, or how it failed; empty elsewhere.
        record: What was found.
        path: Where that was written.
    """

    entry: EntryCard
    state: State
    card: ProtocolCard | None = None
    dataset: str = ""
    reason: str = ""
    record: Result | None = None
    path: Path | None = None

    @property
    def title(self) -> str:
        """The protocol and the images that it scores."""
        return f"{self.entry.protocol} on {self.entry.queries or self.dataset or 'no data set'}"

    def scores(self, shown: Sequence[ShownCard]) -> list[tuple[str, Score]]:
        """Return the scores that a table shows, by name: the entry's own choice, or else the suite's; all without one.

        A score is named as the card names it, where that means one alone: what a probe has chosen is not in its name.
        """
        if self.record is None:
            return []
        chosen = self.entry.shown or shown
        found = (
            [] if chosen else [(_name(score.metric, score.settings), score) for score in self.record.scores]
        )
        for one in chosen:
            meant = [score for score in self.record.scores if is_meant(score, one)]
            alone = len(meant) == 1
            found += [(_name(one.metric, (one if alone else score).settings), score) for score in meant]
        return found


def is_meant(score: Score, shown: ShownCard) -> bool:
    """Tell whether a score is one that a card names."""
    return score.metric == shown.metric and all(
        score.settings.get(key) == value for key, value in shown.settings.items()
    )


def _name(metric: str, settings: Mapping[str, Setting]) -> str:
    told = ", ".join(
        f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}"
        for key, value in settings.items()
    )
    return f"{metric} ({told})" if told else metric
