"""When a training looks at its features, and where it writes down what it saw."""

from collections.abc import Callable
from pathlib import Path

from carp_eval import distributed
from carp_eval.pretrain.journal import Journal, entries
from carp_eval.pretrain.method import Method, Step
from carp_eval.pretrain.monitor import Monitor
from carp_eval.pretrain.watch import Stopped

# Stands in every entry of the log that is of this.
_KNN = "knn_student"


class Online:
    """The online k-NN, by the main process; the others wait for it.

    Attributes:
        was_stopped: Whether a signal came while it looked the last time.
    """

    def __init__(
        self,
        monitor: Monitor | None,
        folder: Path,
        journals: list[Journal],
        *,
        every: int,
        say: Callable[[str], None],
    ) -> None:
        """Make ready.

        Args:
            monitor: Who looks; None for none.
            folder: The run's folder.
            journals: The main process's log; none in the others.
            every: Steps between two looks.
            say: Hears what was seen, in a line.
        """
        self._monitor, self._folder, self._journals = monitor, folder, journals
        self._every, self._say = every, say
        self.was_stopped = False

    def look(self, method: Method, place: Step, stopped: Stopped) -> dict[str, float]:
        """Look and tell what was seen, if it is time to and it was not seen before the training stopped here.

        All processes call it together.
        """
        if self._monitor is None or not place.number or place.number % self._every:
            return {}
        monitor = self._monitor

        def seen() -> dict[str, float] | None:
            if any(entry["step"] == place.number and _KNN in entry for entry in entries(self._folder)):
                return {}
            found = monitor.look(method, stopped=lambda: stopped() is not None)
            for journal in self._journals:
                if found:
                    journal.write(step=place.number, values=found)
            return found or None

        found = distributed.on_main(seen)
        self.was_stopped = found is None
        if found:
            self._say(monitor.describe(found, epoch=place.epoch, method=method))
        return found or {}
