"""What goes wrong with requests to a server, on purpose."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Fault:
    """What goes wrong with requests whose `METHOD path` a pattern is found in."""

    pattern: str
    times: int
    status: int | None
    headers: Mapping[str, str]
    message: str
    cut_after: int | None
    lost: bool
    wait: float


class Faults:
    """Those that are still to come."""

    def __init__(self) -> None:
        super().__init__()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def fault(
        self,
        pattern: str,
        *,
        times: int = 1,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        message: str = "made to fail",
        cut_after: int | None = None,
        lost: bool = False,
        wait: float = 0.0,
    ) -> None:
        """Let requests go wrong.

        Args:
            pattern: Regular expression, looked for in `METHOD path`.
            times: How many such requests.
            status: Answer with this, and do nothing.
            headers: Sent with that answer.
            message: The error it tells.
            cut_after: Close the connection after so many bytes of the request's body, or, where it has none, of the
                answer's.
            lost: Do what is asked for, then close the connection without an answer.
            wait: Seconds before anything else.
        """
        self._faults.append(
            Fault(pattern, times, status, headers or {}, message, cut_after, lost=lost, wait=wait)
        )

    def take_fault(self, request: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None
