"""Work as jobs of a Slurm cluster, through submitit: an array of them, which go on when they are started again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carp_eval.checkpoints.doors.extras import require
from carp_eval.errors import UsageError

# What submitit calls the cluster; `local` runs the same jobs on this machine.
CLUSTER = "slurm"
LOGS = "slurm"


@dataclass(frozen=True)
class Job:
    """Work on one item, by one process or several.

    Attributes:
        work: What is done with an item; called again, it goes on where it stood.
    """

    work: Callable[[Any], None]

    def __call__(self, item: Any) -> None:
        """Do the work, in each of the job's processes."""
        environment = _submitit().JobEnvironment()
        if environment.num_tasks > 1:
            # As torchrun would. Every process sees all its machine's GPUs, and takes the one of its local rank.
            _submitit().helpers.TorchDistributedEnvironment().export(
                set_cuda_visible_devices=False, overwrite=True
            )
        self.work(item)

    def checkpoint(self, item: Any) -> Any:
        """Return what the cluster starts when it has taken the machine away, or time is up: the same again."""
        return _submitit().helpers.DelayedSubmission(self, item)


def submit(
    work: Callable[[Any], None],
    items: Sequence[Any],
    *,
    folder: Path,
    name: str,
    parameters: Mapping[str, str],
) -> list[str]:
    """Submit a job for each item, as one array.

    Args:
        work: What is done with an item: a function of a module, or a partial of one.
        items: What to work on.
        folder: Logs go into `slurm` in it.
        name: What the queue calls the jobs.
        parameters: What submitit is told of them: `timeout_min`, `gpus_per_node`, `cpus_per_task`, `mem_gb`, `nodes`,
            `tasks_per_node`, `slurm_partition` and others of Slurm's options with that prefix; and `cluster`.

    Returns:
        The jobs' names in the queue, one for each item.

    Raises:
        UsageError: If submitit is not installed, there is no Slurm here, or a parameter or the queue refuses.
    """
    submitit = _submitit()
    options = {key: _value(value) for key, value in parameters.items()}
    cluster = str(options.pop("cluster", CLUSTER))
    try:
        executor = submitit.AutoExecutor(folder=folder / LOGS, cluster=cluster)
        executor.update_parameters(**{"name": name, **options})
        jobs = executor.map_array(Job(work), list(items))
    # What submitit raises where there is no srun, of a parameter it does not know or whose value is of another type.
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise UsageError(f"--slurm: {error}") from error
    return [job.job_id for job in jobs]


def check_installed() -> None:
    """Make sure that jobs can be submitted.

    Raises:
        UsageError: If submitit is not installed.
    """
    _submitit()


def _submitit() -> Any:
    return require("submitit", needed_for="--slurm", extra="slurm")


def _value(text: str) -> int | float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
