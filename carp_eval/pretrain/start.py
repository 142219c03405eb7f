"""From a recipe's name to a training that runs."""

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from carp_eval import distributed, files, results
from carp_eval.cards import loading
from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints import runs
from carp_eval.data import opening, subset
from carp_eval.data.images import Images
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.preview import preview as draw_preview
from carp_eval.data.skipping import SkippedImages
from carp_eval.data.streamed import StreamedImages
from carp_eval.errors import UsageError
from carp_eval.pretrain import beginning, from_stream, loop, methods
from carp_eval.pretrain.batches import ViewBatches
from carp_eval.pretrain.beginning import Begun
from carp_eval.pretrain.estimate import estimate
from carp_eval.pretrain.init import InitialTrunk, open_trunk
from carp_eval.pretrain.loop import Display, Outcome
from carp_eval.pretrain.monitor import Monitor


@dataclass(frozen=True)
class Plan:
    """A training that can start.

    Attributes:
        recipe: What to train.
        recipe_name: What to call it.
        images: What to train on.
        begun: What there is of the run.
        launchers: Who has started the processes (see `distributed.launchers`).
        initial: What the trunk starts from; None for fresh weights, or those of the checkpoint.
        runs_root: Folder that holds the runs.
        data_root: Folder that holds named data sets.
        accelerator: Device, precision and processes.
        num_workers: Processes that load images; None is from the cores.
        skipped: Where unreadable images are noted; None stops at the first.
        display: Who is told how it goes.
    """

    recipe: RecipeCard
    recipe_name: str
    images: Images
    begun: Begun
    launchers: list[str]
    initial: InitialTrunk | None
    runs_root: Path
    data_root: Path | None
    accelerator: Accelerator
    num_workers: int | None
    skipped: SkippedImages | None
    display: Display


def plan(
    recipe_name: str,
    *,
    display: Display,
    changes: dict[str, str] | None = None,
    resume: str | None = None,
    folder: Path | None = None,
    runs_root: Path = runs.RUNS,
    data_root: Path | None = None,
    device: str | None = None,
    num_workers: int | None = None,
    skip_bad: bool = False,
) -> Plan:
    """Find everything a training needs, so that what is missing is said before it starts.

    Args:
        recipe_name: A recipe's name, or a path ending in `.toml`; unused when a run is resumed.
        display: Who is told how it goes.
        changes: Values by dotted key that differ from the recipe's; of a run that is resumed, only those of `compute`.
        resume: A run folder to go on with, or `last`.
        folder: The run's folder, whose checkpoint is gone on with where it has one; None makes a new one, unless
            processes that torchrun starts again have begun one before.
        runs_root: Folder that holds the runs.
        data_root: Folder that holds named data sets.
        device: A torch device; None takes a GPU if there is one.
        num_workers: Processes that load images; None is from the cores.
        skip_bad: Whether unreadable images are counted and left out.

    Raises:
        CarpError: If the recipe, the data set, the run, the model to start from or the device is not there, or does
            not fit; in all processes, if it is so in one.
    """
    distributed.join()
    launchers = distributed.launchers()
    # The main process's folder is the run's: the machines of the others may have none.
    if resume is None:
        with distributed.failing_together():
            recipe = loading.recipe(recipe_name, changes)
        distributed.check_same("recipe", loading.fingerprint(recipe))
        begun = distributed.on_main(
            lambda: beginning.to_begin(recipe, folder=folder, runs_root=runs_root, launchers=launchers)
        )
    else:
        begun = distributed.on_main(
            lambda: beginning.to_resume(resume, runs_root=runs_root, launchers=launchers)
        )
        assert begun.recipe is not None
        assert begun.folder is not None
        recipe, recipe_name = begun.recipe, begun.folder.name
        with distributed.failing_together():
            # How a step is computed may differ from what the run began with: what is learnt does not depend on it.
            anew = {key: value for key, value in (changes or {}).items() if key.startswith("compute.")}
            recipe = loading.changed_recipe(recipe, anew)
    with distributed.failing_together():
        accelerator = _accelerator(device)
        images = opening.open_images(recipe.data.name, recipe.data.split, data_root=data_root)
        from_stream.check(recipe, images)
        if recipe.data.num_images is not None:
            images = subset.some(images, recipe.data.num_images)
        initial = None if begun.checkpoint is not None else open_trunk(recipe)
    distributed.check_same(f"{recipe.data.name} ({recipe.data.split})", (len(images), images.class_names))
    return Plan(
        recipe=recipe,
        recipe_name=Path(recipe_name).stem,
        images=images,
        begun=begun,
        initial=initial,
        launchers=launchers,
        runs_root=runs_root,
        data_root=data_root,
        accelerator=accelerator,
        num_workers=num_workers,
        skipped=SkippedImages() if skip_bad else None,
        display=display,
    )


def train(plan: Plan) -> Outcome:
    """Train to the end, or to a signal.

    Raises:
        TrainingError: If the data is too small for a batch, the loss is not finite, or memory is short.
        StorageError: If the run cannot be written.
    """
    recipe, display, begun = plan.recipe, plan.display, plan.begun
    with distributed.failing_together():
        batches = ViewBatches(
            recipe,
            plan.images,
            device=plan.accelerator.device,
            num_workers=plan.num_workers,
            skipped=plan.skipped,
        )
    num_steps = recipe.schedule.epochs * batches.steps_per_epoch
    done = 0 if begun.checkpoint is None else begun.checkpoint.step
    finished = distributed.on_main(lambda: begun.folder is not None and runs.is_finished(begun.folder))
    if begun.folder is not None and finished and done >= num_steps:
        display.say(f"{begun.folder} is finished: nothing to go on with")
        return Outcome(begun.folder, done, num_steps, None)
    with distributed.failing_together():
        monitor = _monitor(plan)
    _tell(plan, batches)
    with distributed.failing_together():
        state = loop.Training(
            recipe,
            batches=batches,
            accelerator=plan.accelerator,
            resume=begun.checkpoint,
            initial=plan.initial,
        )
    with ExitStack() as held:
        # One folder, whoever of several processes asks.
        folder = distributed.on_main(lambda: _folder(plan, held))
        display.say(f"run folder: {folder}{_whose()}")
        if plan.initial is not None:
            # From here on the run needs the model no more that it started from.
            loop.save(state, folder)
        outcome = loop.run(state, folder, monitor=monitor, display=display)
    _tell_skipped(plan)
    if outcome.stopped_by is not None:
        display.say(
            f"stopped by {outcome.stopped_by.name} at step {outcome.step} of {outcome.num_steps}; go on with: "
            f"carp train --resume {folder}"
        )
    else:
        display.say(f"finished: {folder}. Score it with: carp eval knn --k 20 -m {folder}")
    return outcome


def _folder(plan: Plan, held: ExitStack) -> Path:
    """Return the run's folder, kept from others, in which a run that begins says what it is."""
    begun = plan.begun
    folder = begun.folder or runs.new_folder(plan.recipe_name, root=plan.runs_root)
    files.make_folder(folder)
    held.enter_context(runs.alone(folder))
    last = folder / runs.LAST
    if begun.stamp != (last.stat().st_mtime_ns if last.is_file() else 0):
        raise UsageError(f"another process has gone on with {folder} since this one looked: start again")
    if begun.checkpoint is None:
        files.write_text(folder / runs.RECIPE, plan.recipe.model_dump_json(indent=2) + "\n")
        runs.write_state(folder, recipe=plan.recipe_name, **results.circumstances())
    if plan.initial is not None:
        runs.write_state(folder, init=plan.initial.record())
    runs.write_state(folder, launchers=plan.launchers, processes=distributed.world_size())
    return folder


def _whose() -> str:
    """Say on which of several machines the run's folder is."""
    hosts: list[str] = distributed.gather_objects(socket.gethostname())
    return f" (of process 0, on {hosts[0]})" if len(set(hosts)) > 1 else ""


def _tell_skipped(plan: Plan) -> None:
    if plan.skipped is None:
        return
    every = SkippedImages()
    for one in distributed.gather_objects(plan.skipped):
        every.by_number.update(one.by_number)
    if len(every):
        plan.display.say(every.describe())


def preview(plan: Plan, path: Path) -> None:
    """Draw some images and their views as a picture.

    Raises:
        StorageError: If the picture cannot be written.
    """
    draw_preview(plan.images, plan.recipe, path)


def _accelerator(device: str | None) -> Accelerator:
    wants_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    if not wants_cpu and device is not None and not torch.cuda.is_available():
        raise UsageError(
            f"--device {device} was asked for and this machine shows no CUDA device; try --device cpu"
        )
    if device is not None and ":" in device and distributed.world_size() == 1:
        torch.cuda.set_device(device)
    # Precision is the loop's: the library keeps one for the life of the process.
    return Accelerator(cpu=wants_cpu, mixed_precision="no")


def _monitor(plan: Plan) -> Monitor | None:
    if not plan.recipe.schedule.knn_epochs or isinstance(plan.images, StreamedImages):
        return None
    data = plan.recipe.data
    queries = opening.open_images(data.name, data.evaluation_split, data_root=plan.data_root)
    size = plan.recipe.views[0].size
    return Monitor(
        bank=plan.images,
        queries=queries,
        preprocessing=Preprocessing(
            resize=size, crop=size, interpolation="bicubic", mean=data.mean, std=data.std
        ),
        device=plan.accelerator.device,
    )


def _tell(plan: Plan, batches: ViewBatches) -> None:
    recipe, device, gib = plan.recipe, plan.accelerator.device, 2**30
    # Measured on networks of its own, which are let go: nothing of the training may depend on it.
    method = methods.build(recipe, device=device)
    num_steps = recipe.schedule.epochs * batches.steps_per_epoch
    need = estimate(recipe, method, num_steps=num_steps, world_size=distributed.world_size(), device=device)
    own = method.describe()
    plan.display.say(
        f"{recipe.summary}\n"
        f"{len(plan.images)} images of {plan.images.name}, {recipe.schedule.epochs} epochs of "
        f"{batches.steps_per_epoch} steps of {recipe.schedule.batch_size}; {need.parameters / 1e6:.1f} M parameters"
        f"{'; ' if own else ''}{own}\n"
        f"estimate on {device}: {need.bytes_needed / gib:.1f} GiB of {need.bytes_free / gib:.1f} GiB "
        f"free, {_duration(need.seconds)} without loading and evaluation"
    )
    for note in (
        *from_stream.notes(plan.images),
        *method.notes(),
        *(plan.initial.notes(recipe) if plan.initial is not None else ()),
    ):
        plan.display.say(note)
    if need.bytes_needed > need.bytes_free:
        plan.display.say(
            "warning: that is more memory than is free. Lower schedule.batch_size, make the network smaller, or use "
            "more processes"
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
