"""The training loop: one way from a recipe to a checkpoint, whatever stops it on the way."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator
from torch import nn

from carp_eval import distributed, optim
from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.reading import fill
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import CarpError, StorageError, TrainingError
from carp_eval.pretrain import accumulation, memory, methods, signs
from carp_eval.pretrain.batches import ViewBatches
from carp_eval.pretrain.gradients import Gradients, cut_of
from carp_eval.pretrain.init import InitialTrunk, hold_trunk
from carp_eval.pretrain.journal import Journal
from carp_eval.pretrain.method import Method, Step
from carp_eval.pretrain.monitor import Monitor
from carp_eval.pretrain.online import Online
from carp_eval.pretrain.watch import Watch, stop_signals

LOG_STEPS = 10


@runtime_checkable
class Display(Protocol):
    """Who is told how a training goes."""

    def step(self, *, step: int, num_steps: int, values: dict[str, float], told: str) -> None:
        """Hear of a step that was taken: its numbers, and its losses in words."""
        ...

    def say(self, text: str) -> None:
        """Hear of something a person should read."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        folder: The run's folder.
        step: Steps taken.
        num_steps: Steps of the whole recipe.
        stopped_by: The signal that stopped it, or None if it ran to its end.
    """

    folder: Path
    step: int
    num_steps: int
    stopped_by: signal.Signals | None


class Training:
    """A recipe under way: networks, optimiser, and where it stands."""

    def __init__(
        self,
        recipe: RecipeCard,
        *,
        batches: ViewBatches,
        accelerator: Accelerator,
        resume: training.TrainingCheckpoint | None,
        initial: InitialTrunk | None = None,
    ) -> None:
        """Build everything, or take it from a checkpoint.

        Args:
            recipe: What to train.
            batches: Where views come from.
            accelerator: Device, precision and processes.
            resume: The checkpoint to go on from.
            initial: What the trunk starts from; a checkpoint needs none.

        Raises:
            TrainingError: If the checkpoint is of another recipe or number of processes.
            CheckpointError: If its weights do not fit.
            PluginError: If the method is another package's, which does not work.
            UsageError: If a process's share of a batch cannot be cut into the recipe's micro-batches, or an option of
                its `compute` table does not work here.
        """
        self.recipe, self.batches, self.accelerator = recipe, batches, accelerator
        self.num_steps = recipe.schedule.epochs * batches.steps_per_epoch
        self.warmup_steps = round(recipe.optimiser.warmup_epochs * batches.steps_per_epoch)
        self.method: Method = methods.build(recipe, device=accelerator.device)
        self.optimiser = self.method.optimiser()
        self.step = 0
        if resume is not None:
            self._take(resume)
        elif initial is not None:
            initial.fill(self.method)
        memory.prepare(self.method, recipe.compute, device=accelerator.device)
        student: nn.Module = self.method.student
        if distributed.world_size() > 1 and accelerator.device.type == "cuda":
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
            if self.method.teacher is not None:
                # In place: the method goes on with the teacher that it has.
                nn.SyncBatchNorm.convert_sync_batchnorm(self.method.teacher)
        cut = cut_of(recipe, student, world_size=distributed.world_size())
        self._gradients = Gradients(self.method, accelerator, cut)
        self._bare = student
        self._holds_trunk = self.epoch < recipe.init.freeze_epochs
        if self._holds_trunk:
            hold_trunk(self.method, still=True)
        self.student = accelerator.prepare_model(student)

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.batches.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return self.step / self.num_steps

    @property
    def place(self) -> Step:
        """Where the training stands."""
        return Step(self.step, self.epoch, self.progress)

    def start_epoch(self) -> None:
        """Let the method make ready, where an epoch begins."""
        still = self.epoch < self.recipe.init.freeze_epochs
        if still != self._holds_trunk:
            self._holds_trunk = still
            hold_trunk(self.method, still=still)
            # What averages gradients over processes has noted which parameters take one.
            self.student = self.accelerator.prepare_model(self._bare)
        if self.step % self.batches.steps_per_epoch == 0:
            cut = self._gradients.cut
            with accumulation.in_pieces(self._bare, cut), accumulation.in_pieces(self.method.teacher, cut):
                self.method.start_epoch(self.epoch, self.batches)
        if still:
            # Whoever has looked at the networks since may have left them in training mode.
            hold_trunk(self.method, still=True)

    def take_step(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one step, and return what it showed.

        Raises:
            TrainingError: If the loss is not finite; no weight has moved then.
        """
        place = self.place
        views = [view.to(self.accelerator.device, non_blocking=True) for view in batch.views]
        losses = self._gradients.take(TrainingBatch(views, batch.index), student=self.student, step=place)
        lr = optim.learning_rate(
            self.recipe.optimiser, step=self.step, num_steps=self.num_steps, warmup_steps=self.warmup_steps
        )
        self.method.set_rates(self.optimiser, lr, place)
        self.method.before_update(place)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.method.after_update(place)
        self.step += 1
        return {
            "loss": losses.total.item(),
            **{name: float(value) for name, value in losses.shown.items()},
            "lr": lr,
        }

    def checkpoint(self) -> training.TrainingCheckpoint:
        """Return all that is needed to go on to the bit; all processes call it together."""
        return training.TrainingCheckpoint(
            recipe=self.recipe,
            step=self.step,
            world_size=distributed.world_size(),
            student=self.method.student.state_dict(),
            teacher={} if self.method.teacher is None else self.method.teacher.state_dict(),
            optimiser=self.optimiser.state_dict(),
            method=self.method.state(),
        )

    def _take(self, resume: training.TrainingCheckpoint) -> None:
        if resume.world_size != distributed.world_size():
            raise TrainingError(
                f"the checkpoint was made by {resume.world_size} processes and there are "
                f"{distributed.world_size()} now: start as many, or the run would not go on as it was"
            )
        fill(self.method.student, resume.student, where="the student of the checkpoint")
        if self.method.teacher is not None:
            fill(self.method.teacher, resume.teacher, where="the teacher of the checkpoint")
        self.method.take_state(resume.method)
        self.optimiser.load_state_dict(resume.optimiser)
        self.step = resume.step


def run(state: Training, folder: Path, *, monitor: Monitor | None, display: Display) -> Outcome:
    """Train to the end of the recipe, or to a signal, and leave a checkpoint behind.

    Args:
        state: The training, fresh or resumed.
        folder: The run's folder.
        monitor: The online k-NN; None for none.
        display: Who is told.

    Raises:
        TrainingError: If the loss is not finite.
        StorageError: If a checkpoint or the log cannot be written; the one before stays.
    """
    schedule, per_epoch = state.recipe.schedule, state.batches.steps_per_epoch
    begun: list[Journal] = []
    with distributed.failing_together():
        if distributed.is_main():
            record(folder, state="running", step=state.step, num_steps=state.num_steps)
            begun.append(Journal(folder, step=state.step))
    warned: set[str] = set()
    stopped_by: signal.Signals | None = None
    online = Online(monitor, folder, begun, every=schedule.knn_epochs * per_epoch, say=display.say)
    try:
        with distributed.noticing_absence(), stop_signals() as stopped:
            watch = Watch(stopped, checkpoint_minutes=schedule.checkpoint_minutes)
            seen: dict[str, float] = online.look(state.method, state.place, stopped)
            while state.step < state.num_steps and not watch.stopping:
                for values in _epoch(state, watch, folder, display):
                    with watch.holding():
                        if begun and (state.step % LOG_STEPS == 0 or state.step % per_epoch == 0):
                            begun[0].write(step=state.step, values=values)
                    seen = values
                if watch.stopping:
                    break
                if state.epoch % schedule.checkpoint_epochs == 0 or state.step == state.num_steps:
                    save(state, folder)
                    watch.saved()
                seen |= online.look(state.method, state.place, stopped)
                found = {} if signs.too_early(state.progress) else state.method.warnings(seen)
                for sign in sorted(found.keys() - warned):
                    display.say(f"warning: {found[sign]}")
                warned |= found.keys()
            if watch.stopping or online.was_stopped:
                stopped_by = next(filter(None, distributed.gather_objects(stopped())), None)
                save(state, folder)
    except BaseException:
        # A disk that is full may be what went wrong.
        with suppress(StorageError):
            record(folder, state="failed", step=state.step)
        raise
    finally:
        for journal in begun:
            journal.close()
    record(folder, state="finished" if stopped_by is None else "interrupted", step=state.step)
    return Outcome(folder, state.step, state.num_steps, stopped_by)


def save(state: Training, folder: Path) -> None:
    """Write the run's checkpoint; at the recipe's milestones, a copy that stays.

    All processes call it together.

    Raises:
        TrainingError: If a weight is not finite; the checkpoint before stays.
        StorageError: If the disk is full, read-only or closed to us; the checkpoint before stays.
    """
    checkpoint = state.checkpoint()
    distributed.on_main(lambda: _write(state, checkpoint, folder))


def _write(state: Training, checkpoint: training.TrainingCheckpoint, folder: Path) -> None:
    broken = [
        name
        for name, tensor in checkpoint.student.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        raise TrainingError(
            f"after step {state.step} the weights {broken[0]} are not finite; the checkpoint before is kept. Train "
            "anew with a lower optimiser.lr or a longer optimiser.warmup_epochs"
        )
    last = folder / runs.LAST
    training.save(last, checkpoint)
    keep = state.recipe.schedule.keep_epochs
    at_boundary = state.step % state.batches.steps_per_epoch == 0
    if keep and state.step and at_boundary and state.epoch % keep == 0:
        milestone = last.with_name(f"epoch-{state.epoch:04d}.pt")
        milestone.unlink(missing_ok=True)
        try:
            # The next save renames over `last.pt`, so a hard link keeps these bytes without a copy.
            milestone.hardlink_to(last)
        except OSError:
            # Not every file system has such links.
            training.save(milestone, checkpoint)


def record(folder: Path, **values: Any) -> None:
    """Note in the run's `run.json` how it stands."""
    if distributed.is_main():
        runs.write_state(folder, **values)


def _epoch(state: Training, watch: Watch, folder: Path, display: Display) -> Iterator[dict[str, float]]:
    """Take the rest of an epoch's steps; stop early once a signal was seen by any process."""
    started, at_start = time.perf_counter(), state.step
    start_step = state.step % state.batches.steps_per_epoch
    state.start_epoch()
    batches = state.batches.epoch(state.epoch, start_step=start_step)
    while (batch := _next(state, batches, watch, folder, display)) is not None:
        losses = state.take_step(batch)
        values = dict(losses)
        images = (state.step - at_start) * state.recipe.schedule.batch_size
        values["images_per_second"] = images / (time.perf_counter() - started)
        values["epoch"] = state.step / state.batches.steps_per_epoch
        values["loading_share"] = state.batches.loading_share
        told = state.method.told(losses)
        display.step(step=state.step, num_steps=state.num_steps, values=values, told=told)
        if advice := state.batches.advice():
            display.say(advice)
        yield values


def _next(
    state: Training, batches: Iterator[TrainingBatch], watch: Watch, folder: Path, display: Display
) -> TrainingBatch | None:
    """Return the next batch; what is learnt is kept if there is an error in it, or it is time to."""
    try:
        batch = watch.next(batches)
    except CarpError:
        if state.step:
            save(state, folder)
            display.say(
                f"what was learnt in {state.step} steps is kept; go on with: carp train --resume {folder}"
            )
        raise
    if watch.save_due:
        save(state, folder)
        watch.saved()
    return batch
