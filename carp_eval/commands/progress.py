"""Progress bars on standard error: rows done, rate, time left."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@contextmanager
def rows() -> Generator[Callable[[str], Callable[[int, int], None]]]:
    """Show a bar for each split that is worked on; nothing for a split whose bank is ready.

    Ctrl-C ends the command with exit code 130 and without a traceback.

    Yields:
        A function that takes a split's name and returns one that is told of rows done and rows in all.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

    def of_split(name: str) -> Callable[[int, int], None]:
        task: TaskID | None = None

        def tell(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bars.add_task(f"features of {name}", total=total, rate="")
            speed = bars.tasks[task].speed
            bars.update(task, completed=done, rate=f"{speed:.0f} images/s" if speed else "")

        return tell

    with bars:
        try:
            yield of_split
        except KeyboardInterrupt:
            bars.console.print("stopped: finished shards are kept, and the same command goes on from them")
            raise typer.Exit(130) from None
