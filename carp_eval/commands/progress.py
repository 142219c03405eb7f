"""Progress bars on standard error: how much is done, rate, time left."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

# In a log, where no bar can move.
SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def bars(*, in_bytes: bool = False) -> Generator[Callable[[str], Callable[[int, int], None]]]:
    """Show a bar for each piece of work, from when it is first told of.

    Ctrl-C ends the command with exit code 130 and without a traceback.

    Args:
        in_bytes: Whether it is bytes that are counted; a total of 0 is one that nobody knows.

    Yields:
        A function that takes what is being done and returns one that is told how much of it is, and of how much.
    """
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # torchrun numbers its processes; those after the first have the same to tell.
        disable=os.environ.get("RANK", "0") != "0",
    )

    watched = shown.console.is_terminal or shown.disable
    told = time.monotonic()

    def of_work(name: str) -> Callable[[int, int], None]:
        task: TaskID | None = None

        def tell(done: int, total: int) -> None:
            nonlocal task, told
            if task is None:
                # What was there before this run counts, but not for the rate.
                task = shown.add_task(escape(name), total=total or None, completed=done, rate="")
            speed = shown.tasks[task].speed
            rate = "" if not speed else f"{decimal(int(speed))}/s" if in_bytes else f"{speed:.3g}/s"
            shown.update(task, completed=done, total=total or None, rate=rate)
            if not watched and time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                shown.console.print(f"{escape(name)}: {_of(done, total, in_bytes=in_bytes)}", highlight=False)

        return tell

    with shown:
        try:
            yield of_work
        except KeyboardInterrupt:
            shown.console.print("stopped: what is finished is kept, and the same command goes on from there")
            raise typer.Exit(130) from None


def _of(done: int, total: int, *, in_bytes: bool) -> str:
    if not in_bytes:
        return f"{done:,} of {total:,}"
    return f"{decimal(done)} of {decimal(total)}" if total else decimal(done)
