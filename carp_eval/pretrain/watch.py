"""What may come between two steps of a training: a signal, an error, the time for a checkpoint.

Processes that train together must agree on it, or one would leave while the others wait for it.
"""

import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType

from carp_eval import distributed
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import CarpError

Stopped = Callable[[], signal.Signals | None]


class Watch:
    """Looks up between steps.

    Attributes:
        stopping: Whether some process was told to stop.
        save_due: Whether it is time for a checkpoint.
    """

    def __init__(self, stopped: Stopped, *, checkpoint_minutes: float) -> None:
        """Begin.

        Args:
            stopped: Tells the signal that this process has seen.
            checkpoint_minutes: Longest time between checkpoints; 0 for any.
        """
        self._stopped = stopped
        self._seconds = checkpoint_minutes * 60
        self._error: CarpError | None = None
        self.stopping = self.save_due = False
        self.saved()

    def next(self, batches: Iterator[TrainingBatch]) -> TrainingBatch | None:
        """Return the next batch; None if there is none, or the training is to stop.

        All processes call it together.

        Raises:
            CarpError: In all processes, if one could not make its batch, or has met an error since the last call.
        """
        batch = None
        with self.holding():
            batch = next(batches, None)
        # The clock is one process's: the others may be a little before or behind.
        late = self._seconds > 0 and time.monotonic() - self._saved_at > self._seconds
        failed, self.stopping, self.save_due = distributed.any_of_each(
            self._error is not None, self._stopped() is not None, distributed.is_main() and late
        )
        if failed:
            distributed.share_error(self._error)
        return None if self.stopping else batch

    def saved(self) -> None:
        """Note that there is a checkpoint of now."""
        self._saved_at = time.monotonic()

    @contextmanager
    def holding(self) -> Generator[None]:
        """Keep an error of this process until all can hear of it."""
        try:
            yield
        except CarpError as error:
            self._error = self._error or error


@contextmanager
def stop_signals() -> Generator[Stopped]:
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
