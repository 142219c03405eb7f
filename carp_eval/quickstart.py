"""From nothing to a score: train on the embedded digits, and hold the features against two baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.checkpoints.runs import RUNS
from carp_eval.evaluation.job import DEFAULTS, Settings
from carp_eval.evaluation.running import evaluate
from carp_eval.pretrain import start
from carp_eval.pretrain.loop import Display
from carp_eval.results import Result

NEIGHBOURS = (10, 20, 100, 200)


@dataclass(frozen=True)
class Row:
    """A representation and what it scored.

    Attributes:
        name: The representation.
        knn: The k-NN record.
        cluster: The k-means record.
    """

    name: str
    knn: Result
    cluster: Result


def run(
    *,
    display: Display,
    seed: int = 0,
    runs_root: Path = RUNS,
    settings: Settings = DEFAULTS,
    watch: Callable[[str], None] = lambda _name: None,
    changes: dict[str, str] | None = None,
) -> list[Row] | None:
    """Train CARP on the digits, bank the features of train and test, and score three representations.

    Args:
        display: Who is told how the training goes.
        seed: Seed of the training.
        runs_root: Folder that holds the runs.
        settings: Where and how to evaluate.
        watch: Is told what is being scored.
        changes: Values of the recipe to change.

    Returns:
        Raw pixels, the same network before training, CARP; None if a signal stopped the training.
    """
    changes = {"seed": str(seed)} | (changes or {})
    outcome = start.train(
        start.plan("digits", changes=changes, runs_root=runs_root, display=display, device=settings.device)
    )
    if outcome.stopped_by is not None:
        return None
    folder = outcome.folder
    knn_card = loading.protocol_card("knn", "dino", {"k": NEIGHBOURS})
    cluster_card = loading.protocol_card("cluster", "carp")
    rows: list[Row] = []
    for name, spelling in (
        ("raw pixels", f"pixels:{folder}"),
        ("random initialisation", f"random:{folder}"),
        ("CARP", str(folder)),
    ):
        watch(name)
        model = open_model(spelling)
        scored, _ = evaluate(model, knn_card, settings=settings, output=folder / "results", seed=seed)
        clustered, _ = evaluate(model, cluster_card, settings=settings, output=folder / "results", seed=seed)
        rows.append(Row(name, scored, clustered))
    return rows
