"""How a training looks in the terminal: one bar for the whole run, one line for each thing worth reading."""

from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from carp_eval import distributed
from carp_eval.report.sparkline import sparkline

# Steps whose losses are drawn as a line of blocks.
DRAWN_STEPS = 400


class Display:
    """Shows a training on standard error; elsewhere than in a terminal, a line an epoch instead of a bar."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, quiet=not distributed.is_main())
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._epoch = 0
        self._losses: deque[float] = deque(maxlen=DRAWN_STEPS)

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, *, step: int, num_steps: int, values: dict[str, float], told: str) -> None:
        """Move the bar."""
        losses = f"{told}, {values['images_per_second']:.0f} img/s"
        epoch = f"{values['epoch']:.1f}"
        self._losses.append(values["loss"])
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("train", total=num_steps, epoch=epoch, losses=losses)
        curve = sparkline(list(self._losses), width=12)
        self._bar.update(self._task, completed=step, epoch=epoch, losses=f"{curve} {losses}")
        if not self._console.is_terminal and int(values["epoch"]) > self._epoch:
            self._epoch = int(values["epoch"])
            self._console.print(f"epoch {self._epoch}: {losses}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        style = "yellow" if text.startswith("warning") else None
        self._bar.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def of_all(*, patience: timedelta = distributed.PATIENCE) -> Generator[Display]:
    """Show what several processes do together, if torchrun or a cluster has started several.

    Args:
        patience: How long they wait for one another.

    Raises:
        TrainingError: If one of the others has died, or does not answer.
    """
    # Before the display, which asks who is the main process: that one alone is shown.
    distributed.join(patience=patience)
    try:
        with Display() as display, distributed.noticing_absence():
            yield display
    finally:
        distributed.leave()
