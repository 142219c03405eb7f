"""What runs each kind of card; a protocol's module is imported when it runs, for some bring a second of imports."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from carp_eval import distributed, plugins
from carp_eval.cards import kinds
from carp_eval.cards.cluster import LloydCard, MiniBatchCard
from carp_eval.cards.copydays import CopiesCard, CopydaysCard
from carp_eval.cards.fewshot import SvmFewshotCard
from carp_eval.cards.fewshot_probe import FewshotProbeCard
from carp_eval.cards.finetune import FinetuneCard
from carp_eval.cards.knn import KnnCard
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.cards.linear import AugmentedLinearCard, CachedLinearCard, LogregCard
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.retrieval import LandmarkRetrievalCard, RetrievalCard
from carp_eval.cards.voc07 import Voc07Card
from carp_eval.errors import PluginError
from carp_eval.evaluation import query_set
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.outcome import Outcome

# Runs a protocol. Of several processes each calls it, and each gets the same.
Runner = Callable[[Job], Outcome]

# What of its job a protocol on banks may ask for: bytes it may take, where it runs, what keeps its state.
Wanted = Literal["memory", "device", "kept"]


# Takes the card, two labelled banks (to learn from, to score) and a seed; by name `bar`, and what it wants of its job.
BankRunner = Callable[..., Outcome]


@dataclass(frozen=True)
class OnBanks:
    """Runs a protocol that is judged on two labelled banks.

    Attributes:
        run: The protocol.
        leak_check: Whether it matters that an image to learn from is scored too.
        wants: What of its job it is given beside banks, seed and bar.
    """

    run: BankRunner
    leak_check: bool = True
    wants: tuple[Wanted, ...] = ()

    def __call__(self, job: Job) -> Outcome:
        """Run the protocol on the banks of a job's two splits."""
        bank = job.bank(job.card.bank_split)
        queries = query_set.opened(job, bank, leak_check=self.leak_check)
        job.judged = queries.bank
        given = {"memory": job.settings.memory, "device": job.device, "kept": job.unfinished()}
        told = {name: given[name] for name in self.wants}
        outcome = distributed.on_main(
            lambda: self.run(job.card, bank, queries.bank, job.seed, bar=job.bar, **told)
        )
        counts = {**outcome.counts, **queries.counts}
        return replace(outcome, notes=outcome.notes + queries.notes, counts=counts)


@dataclass(frozen=True)
class Of:
    """A protocol by the module that runs it.

    Attributes:
        module: In `carp_eval.evaluation`; it has a function `run`.
    """

    module: str

    def __call__(self, *told: Any, **named: Any) -> Outcome:
        """Import the module, and run it."""
        return importlib.import_module(f"carp_eval.evaluation.{self.module}").run(*told, **named)


RUNNERS: dict[type[ProtocolCard], Runner] = {
    AugmentedLinearCard: Of("augmented"),
    CachedLinearCard: OnBanks(Of("linear"), wants=("memory", "kept")),
    CopiesCard: Of("copydays"),
    CopydaysCard: Of("copydays"),
    FewshotProbeCard: Of("fewshot_probe"),
    FinetuneCard: Of("finetune"),
    KnnCard: OnBanks(Of("knn"), wants=("memory", "device", "kept")),
    LabelFreeCard: Of("labelfree"),
    LandmarkRetrievalCard: Of("landmarks"),
    LloydCard: Of("cluster"),
    LogregCard: OnBanks(Of("linear"), wants=("memory", "kept")),
    MiniBatchCard: Of("cluster"),
    RetrievalCard: OnBanks(Of("retrieval")),
    SvmFewshotCard: Of("fewshot"),
    Voc07Card: Of("voc07"),
}


def runner_of(card: ProtocolCard) -> Runner:
    """Return what runs a card: ours, or what another package brings for its kind.

    Raises:
        PluginError: If that package does not work.
    """
    brought = None if card.kind in kinds.KINDS else kinds.plugin(card.kind)
    if brought is None:
        return RUNNERS[type(card)]
    runner: Any = plugins.resolve(plugins.PROTOCOLS, card.kind, brought.run)
    if not callable(runner):
        raise PluginError(
            f"{brought.run} must be what runs a job and is a {type(runner).__name__}: the package that brings "
            f"{card.kind} is broken"
        )
    return runner  # pyright: ignore[reportReturnType] - what it returns, nobody can check before it runs
