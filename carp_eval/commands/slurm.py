"""What `--slurm` does in `carp train` and `carp sweep`: the jobs' own work, and the option that says how they run."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carp_eval.errors import UsageError

if TYPE_CHECKING:
    from carp_eval.pretrain.sweep import Sweep

Slurm = Annotated[
    bool, typer.Option("--slurm", help="Submit to a Slurm cluster instead, by submitit (extra: slurm).")
]
SlurmSet = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm-set",
        metavar="KEY=VALUE",
        help="How a job runs: slurm_partition=gpu, timeout_min=600, gpus_per_node=4, tasks_per_node=4, "
        "slurm_array_parallelism=8; cluster=local tries it here. Repeatable.",
    ),
]


def parameters(*, asked: bool, pairs: Sequence[str] | None) -> dict[str, str]:
    """Read `--slurm-set`.

    Raises:
        UsageError: If one has no value, or `--slurm` is left out.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"--slurm-set expects KEY=VALUE, as in --slurm-set timeout_min=600; got {pair!r}"
            )
        found[key.strip()] = value.strip()
    if found and not asked:
        raise UsageError("--slurm-set says how jobs run: it needs --slurm")
    return found


def train_here(arguments: dict[str, Any], folder: Path) -> None:
    """Train in a job, or go on with what the job has done before.

    Args:
        arguments: Of `start.plan`.
        folder: The run's folder.
    """
    from carp_eval import distributed
    from carp_eval.checkpoints import runs
    from carp_eval.commands import train_display
    from carp_eval.pretrain import start

    with train_display.of_all(patience=timedelta(minutes=30)) as display:
        # Not each for itself: the main process may have begun before another looks.
        begun = distributed.on_main((folder / runs.RECIPE).is_file)
        where: dict[str, Any] = {"resume": str(folder)} if begun else {"folder": folder}
        start.train(start.plan(**{**arguments, **where}, display=display))


def run_entry(sweep: "Sweep", number: int) -> None:
    """Train and judge one entry of a sweep in a job; a failure fails the job, so that the queue's records tell it.

    Args:
        sweep: The sweep.
        number: Which of its entries.
    """
    from carp_eval.commands import train_display
    from carp_eval.errors import TrainingError

    with train_display.of_all() as display:
        settled = sweep.run_one(sweep.entries()[number], display)
    if settled.state == "failed":
        raise TrainingError(settled.reason)
