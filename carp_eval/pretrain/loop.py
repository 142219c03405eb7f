"""The training loop: one way from a recipe to a checkpoint, whatever stops it on the way."""

import math
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import nn

from carp_eval import distributed, optim
from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.reading import fill
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import TrainingError
from carp_eval.pretrain import methods, signs
from carp_eval.pretrain.batches import ViewBatches
from carp_eval.pretrain.init import InitialTrunk, hold_trunk
from carp_eval.pretrain.journal import Journal
from carp_eval.pretrain.method import Method, Step
from carp_eval.pretrain.monitor import Monitor

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
        student: nn.Module = self.method.student
        if distributed.world_size() > 1 and accelerator.device.type == "cuda":
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
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
            self.method.start_epoch(self.epoch, self.batches)
        if still:
            # Whoever has looked at the networks since may have left them in training mode.
            hold_trunk(self.method, still=True)

    def take_step(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one step, and return what it showed.

        Raises:
            TrainingError: If the loss is not finite; no weight has moved then.
        """
        device, place = self.accelerator.device, self.place
        bf16 = self.recipe.schedule.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            views = [view.to(device, non_blocking=True) for view in batch.views]
            losses = self.method.loss(TrainingBatch(views, batch.index), student=self.student, step=place)
        total = losses.total.item()
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss is {total} at step {self.step} (epoch {self.epoch + 1}): no weight was moved, and the last "
                "checkpoint is good. Go on from it with a lower optimiser.lr, or in float32"
            )
        lr = optim.learning_rate(
            self.recipe.optimiser, step=self.step, num_steps=self.num_steps, warmup_steps=self.warmup_steps
        )
        self.method.set_rates(self.optimiser, lr, place)
        self.accelerator.backward(losses.total)
        self.method.before_update(place)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.method.after_update(place)
        self.step += 1
        return {"loss": total, **{name: float(value) for name, value in losses.shown.items()}, "lr": lr}

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
    journal = Journal(folder, step=state.step) if distributed.is_main() else None
    record(folder, state="running", step=state.step, num_steps=state.num_steps)
    warned: set[str] = set()
    seen: dict[str, float] = {}
    signal_seen: signal.Signals | None = None
    try:
        with stop_signals() as stopped:
            while state.step < state.num_steps:
                for values in _epoch(state, stopped, display):
                    if journal is not None and (state.step % LOG_STEPS == 0 or state.step % per_epoch == 0):
                        journal.write(step=state.step, values=values)
                    seen = values
                if distributed.any_process(stopped() is not None):
                    break
                if monitor is not None and schedule.knn_epochs and state.epoch % schedule.knn_epochs == 0:
                    online = monitor.look(state.method)
                    seen |= online
                    display.say(monitor.describe(online, epoch=state.epoch, method=state.method))
                    if journal is not None:
                        journal.write(step=state.step, values=online)
                found = {} if signs.too_early(state.progress) else state.method.warnings(seen)
                for sign in found.keys() - warned:
                    display.say(f"warning: {found[sign]}")
                warned |= found.keys()
                if state.epoch % schedule.checkpoint_epochs == 0 or state.step == state.num_steps:
                    save(state, folder)
            signal_seen = stopped()
            if signal_seen is not None:
                save(state, folder)
    except BaseException:
        record(folder, state="failed", step=state.step)
        raise
    finally:
        if journal is not None:
            journal.close()
    done = state.step == state.num_steps
    record(folder, state="finished" if done else "interrupted", step=state.step)
    return Outcome(folder, state.step, state.num_steps, None if done else signal_seen)


def save(state: Training, folder: Path) -> None:
    """Write the run's checkpoint; at the recipe's milestones, a copy that stays."""
    checkpoint = state.checkpoint()
    if distributed.is_main():
        last = folder / runs.LAST
        training.save(last, checkpoint)
        keep = state.recipe.schedule.keep_epochs
        at_boundary = state.step % state.batches.steps_per_epoch == 0
        if keep and state.step and at_boundary and state.epoch % keep == 0:
            milestone = last.with_name(f"epoch-{state.epoch:04d}.pt")
            milestone.unlink(missing_ok=True)
            # The next save renames over `last.pt`, so a hard link keeps these bytes without a copy.
            milestone.hardlink_to(last)
    distributed.barrier()


def record(folder: Path, **values: Any) -> None:
    """Note in the run's `run.json` how it stands."""
    if distributed.is_main():
        runs.write_state(folder, **values)


@contextmanager
def stop_signals() -> Generator[Callable[[], signal.Signals | None]]:
    """Turn the first Ctrl-C or SIGTERM into a note that the loop reads; the second Ctrl-C stops at once."""
    seen: list[signal.Signals] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: seen[0] if seen else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _epoch(
    state: Training, stopped: Callable[[], signal.Signals | None], display: Display
) -> Iterator[dict[str, float]]:
    """Take the rest of an epoch's steps; stop early once a signal was seen by any process."""
    started, at_start = time.perf_counter(), state.step
    start_step = state.step % state.batches.steps_per_epoch
    state.start_epoch()
    for batch in state.batches.epoch(state.epoch, start_step=start_step):
        losses = state.take_step(batch)
        values = dict(losses)
        images = (state.step - at_start) * state.recipe.schedule.batch_size
        values["images_per_second"] = images / (time.perf_counter() - started)
        values["epoch"] = state.step / state.batches.steps_per_epoch
        told = state.method.told(losses)
        display.step(step=state.step, num_steps=state.num_steps, values=values, told=told)
        yield values
        if distributed.any_process(stopped() is not None):
            return
