"""A list of evaluations, one after the other: what is done is not done again, and what fails does not stop the rest."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from carp_eval import distributed, results
from carp_eval.cards import loading
from carp_eval.cards.copydays import CopiesCard
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.suite import AverageCard, EntryCard, SuiteCard
from carp_eval.checkpoints import runs
from carp_eval.data import opening
from carp_eval.errors import CarpError
from carp_eval.evaluation.job import DEFAULTS, Leaks, Settings
from carp_eval.evaluation.running import evaluate, for_dataset
from carp_eval.evaluation.suite_step import Step, is_meant
from carp_eval.features.extraction.forward import choose_device
from carp_eval.models.model import Model
from carp_eval.results import Result, Score

Layer = Literal["pool", "projection"]
# Opens the suite's model at a layer.
Open = Callable[[Layer], Model]


class Suite:
    """A suite for one model and one results folder.

    Attributes:
        card: The list.
        folder: Where records are looked for, and go.
        seed: Of whatever protocols draw.
        leaks: What is done with near-duplicates.
    """

    def __init__(
        self,
        card: SuiteCard,
        open_at: Open,
        *,
        dataset: str | None = None,
        settings: Settings = DEFAULTS,
        output: Path | None = None,
        seed: int = 0,
        leaks: Leaks = "count",
    ) -> None:
        """Make ready; the model is opened.

        Args:
            card: The list.
            open_at: Opens the model at a layer.
            dataset: The data set of entries that name none; left out, the one the model was trained on.
            settings: Where and how to run.
            output: Folder of records; None is the model's run, or `results`.
            seed: Of whatever protocols draw.
            leaks: What is done with near-duplicates.

        Raises:
            CarpError: If the model or the named data set cannot be opened, or the device cannot be used.
        """
        # Once, where each entry would say the same.
        choose_device(settings.device)
        if dataset is not None and any(entry.dataset is None for entry in card.entries):
            distributed.on_main(lambda: opening.locate(dataset, data_root=settings.data_root).splits)
        self.card = card
        self.seed = seed
        self.leaks: Leaks = leaks
        self._settings = settings
        self._open = open_at
        self._models: dict[str, Model | str] = {"pool": open_at("pool")}
        model = self.model
        self._dataset = dataset or model.dataset
        self.folder = output or (model.folder / "results" if model.folder is not None else Path("results"))
        self._manifests: dict[tuple[str, str], str | None] = {}

    @property
    def model(self) -> Model:
        """The model, at its pooled layer."""
        model = self._models["pool"]
        assert isinstance(model, Model)
        return model

    def plan(self, *, look_for_data: bool = False) -> list[Step]:
        """Say of every entry whether it is done, cannot be, or is to run.

        Args:
            look_for_data: Whether to look for the data of what is to run, and to say how to get what is missing.
        """
        return distributed.on_main(
            lambda: [self._step(entry, look_for_data=look_for_data) for entry in self.card.entries]
        )

    def run(
        self,
        steps: Sequence[Step],
        *,
        within: Callable[[Step], AbstractContextManager[Settings]],
    ) -> Iterator[Step]:
        """Run what is to run, and yield every step once it is settled. Every process of a group must call this.

        Args:
            steps: The plan.
            within: Makes what a step runs in, which gives its settings.
        """
        for step in steps:
            if step.state != "to run" or step.card is None:
                yield step
                continue
            model = self._model_at(step.card.layer)
            assert isinstance(model, Model)
            try:
                with within(step) as settings:
                    record, path = evaluate(
                        model,
                        step.card,
                        dataset=step.dataset,
                        queries=step.entry.queries,
                        leaks=self.leaks,
                        settings=settings,
                        output=self.folder,
                        seed=self.seed,
                    )
            except CarpError as error:
                yield replace(step, state="failed", reason=str(error))
            else:
                yield replace(step, state="done", record=record, path=path)

    def averages(self, steps: Sequence[Step]) -> list[tuple[AverageCard, Score | None, int]]:
        """Return the suite's means, each with how many entries it could be taken over; None unless over all."""
        found: list[tuple[AverageCard, Score | None, int]] = []
        for average in self.card.averages:
            scores = [
                score
                for step in steps
                if step.record is not None
                for score in step.record.scores
                if is_meant(score, average.shown)
            ]
            mean = None
            if len(scores) == len(steps):
                mean = self._beside_published(average, scores, steps[0])
            found.append((average, mean, len(scores)))
        return found

    def _beside_published(self, average: AverageCard, scores: Sequence[Score], step: Step) -> Score:
        value = sum(score.value for score in scores) / len(scores)
        mean = Score(metric=average.shown.metric, value=value, settings=average.shown.settings)
        published = results.published_for(
            loading.published(),
            mean,
            models=self.model.names,
            protocol=step.entry.kind,
            variant=step.entry.variant,
            dataset=average.dataset,
            splits=frozenset(["test"]),
        )
        return mean.model_copy(update={"published": published})

    def _step(self, entry: EntryCard, *, look_for_data: bool) -> Step:
        step = Step(entry, "to run", dataset=entry.dataset or self._dataset or "")
        try:
            card = entry.card()
        except CarpError as error:
            return replace(step, state="failed", reason=str(error))
        if not step.dataset:
            reason = f"{self.model.name} does not say what it was trained on: name a data set with -d"
            return replace(step, card=card, state="failed", reason=reason)
        card = for_dataset(card, step.dataset, entry.queries)
        step = replace(step, card=card)
        model = self._model_at(card.layer)
        if isinstance(model, str):
            return replace(step, state="skipped", reason=model)
        before = self._done_before(step, card, model)
        if before is not None:
            return replace(step, state="done before", record=before[0], path=before[1])
        if look_for_data:
            for dataset in (step.dataset, entry.queries or step.dataset):
                try:
                    opening.locate(dataset, data_root=self._settings.data_root)
                except CarpError as error:
                    return replace(step, state="missing", reason=str(error))
        return step

    def _model_at(self, layer: Layer) -> Model | str:
        """Return the model at a layer, or why it has none."""
        if layer not in self._models:
            try:
                model = self._open(layer)
            except CarpError as error:
                self._models[layer] = str(error)
            else:
                has = model.layer == layer
                self._models[layer] = model if has else f"{model.name} has no {layer} layer"
        return self._models[layer]

    def _done_before(self, step: Step, card: ProtocolCard, model: Model) -> tuple[Result, Path] | None:
        """Return the newest record of the same card, weights, data and seed."""
        wanted = {
            "card_sha256": loading.fingerprint(card),
            "weights_sha256": model.weights_sha256,
            "branch": model.branch,
            "layer": model.layer,
            "dataset": step.dataset,
            "query_dataset": step.entry.queries or step.dataset,
            "dropped_leaks": self.leaks == "drop",
            "seed": self.seed,
        }
        found: list[tuple[Result, Path]] = []
        for path in sorted(self.folder.glob(f"{card.kind}@*.json")):
            try:
                record = results.load(path)
            except CarpError:
                # Not a record, or one of another release.
                continue
            if all(getattr(record, name) == value for name, value in wanted.items()) and self._same_data(
                record, step
            ):
                found.append((record, path))
        return max(found, key=lambda pair: pair[0].finished, default=None)

    def _same_data(self, record: Result, step: Step) -> bool:
        """Tell whether the splits that a record was made from are still what they were."""
        if isinstance(step.card, CopiesCard):
            return self._same_origin(record, step.dataset)
        scored = record.query_split
        if step.entry.queries is not None:
            scored = f"{step.entry.queries} {record.query_split}"
        for name, sha256 in record.data.items():
            if name in (record.bank_split, record.query_split):
                now = self._manifest(step.dataset, name)
            elif name == scored:
                now = self._manifest(record.query_dataset, record.query_split)
            else:
                # What a protocol made or opened beside its two splits follows from its card.
                continue
            if now != sha256:
                return False
        return True

    def _same_origin(self, record: Result, dataset: str) -> bool:
        """Tell whether the split that copies were made of is still what it was; what was made no data set has."""
        now = {name: self._manifest(dataset, name) for name in record.data}
        there = {name: sha256 for name, sha256 in now.items() if sha256 is not None}
        return bool(there) and all(record.data[name] == sha256 for name, sha256 in there.items())

    def _manifest(self, dataset: str, split: str) -> str | None:
        """Return a split's hash; None where it cannot be opened."""
        if (dataset, split) not in self._manifests:
            try:
                images = opening.open_images(dataset, split, data_root=self._settings.data_root)
                self._manifests[dataset, split] = images.manifest_sha256
            except CarpError:
                self._manifests[dataset, split] = None
        return self._manifests[dataset, split]


def checkpoints(folder: Path) -> dict[str, Path]:
    """Return the checkpoints that a run has kept, by epoch, the last one at the end.

    Raises:
        CheckpointError: If the run has none.
    """
    last = runs.checkpoint_path(folder)
    kept = sorted(last.parent.glob("epoch-*.pt"))
    found = {str(int(path.stem.removeprefix("epoch-"))): path for path in kept}
    # The last one is a second name of a milestone's file where the run ended on one.
    return found if kept and kept[-1].samefile(last) else found | {"last": last}
