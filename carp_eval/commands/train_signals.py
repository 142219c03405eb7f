"""Ctrl-C and SIGTERM before a training has taken a step, or after its last."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

# As shells count a process that a signal ends.
EXIT_STOPPED = {number: 128 + number for number in (signal.SIGINT, signal.SIGTERM)}


@contextmanager
def ending(say: Callable[[str], None]) -> Generator[None]:
    """Let a signal end the command in a line, while nobody else looks for signals.

    Args:
        say: Hears what has ended it.

    Raises:
        SystemExit: If a signal came.
    """
    seen: list[signal.Signals] = []

    def end(number: int, _frame: FrameType | None) -> None:
        seen.append(signal.Signals(number))
        raise SystemExit(EXIT_STOPPED[signal.Signals(number)])

    before = {number: signal.signal(number, end) for number in EXIT_STOPPED}
    try:
        yield
    except SystemExit:
        if seen:
            say(f"stopped by {seen[0].name} while no step was under way; nothing that was learnt is lost")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
