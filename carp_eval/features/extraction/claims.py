"""Who makes which shard of a bank: each process takes what is free, and what a dead one has left.

A claim is a lock on a file beside the shard, which the kernel lets go of when its process dies, however it dies; so
processes need not know of each other, on one machine or on several with a common disk. There, the file system must
carry locks (NFS version 4, Lustre mounted with `flock`); one that carries none gets files whose being there is the
lock, and such a file of a process that died on another machine has to be removed by hand.
"""

import logging
import time
from collections.abc import Container, Iterator

from filelock import FileLock, Timeout

from carp_eval import files
from carp_eval.features.extraction.unfinished import UnfinishedBank
from carp_eval.features.shards import Span

log = logging.getLogger(__name__)

SHORTEST_WAIT, LONGEST_WAIT = 0.02, 1.0
# Seconds after which somebody who watches wants to know why nothing moves.
PATIENCE = 30.0


class Claims:
    """The shards of an unfinished bank that are still to be made, and those that this process has taken.

    Attributes:
        left: Shards that nobody is known to have finished, and that are not ours.
        elsewhere: Images in the shards that others have finished meanwhile.
    """

    def __init__(self, unfinished: UnfinishedBank, *, finished: Container[str]) -> None:
        """Take nothing yet.

        Args:
            unfinished: The bank.
            finished: Names of the shards that are there, every byte of them checked.
        """
        self._unfinished = unfinished
        self._held: dict[str, FileLock] = {}
        self.left = [span for span in unfinished.spans() if span.file not in finished]
        self.elsewhere = 0

    def take(self) -> Iterator[Span]:
        """Claim what is free, a shard whenever one is asked for, once through the list; never waits.

        What had been made before and is damaged, is said when it is claimed.
        """
        for span in list(self.left):
            lock = self._lock(span)
            if lock is None:
                continue
            self.left.remove(span)
            self._held[span.file] = lock
            # Only now is it sure that nobody changes it.
            trouble = self._unfinished.trouble(span)
            if trouble is None:
                self.elsewhere += span.stop - span.start
                self.let_go(span)
                continue
            if trouble:
                log.warning("%s: %s. It is extracted again", self._unfinished.path, trouble)
            self._unfinished.clear(span)
            yield span

    def let_go(self, span: Span) -> None:
        """Give up the claim on a shard that is finished."""
        path, lock = self._unfinished.lock_path(span), self._held.pop(span.file)
        with files.storage_errors(path):
            # While it is held: who has opened the file by now will get the lock, look, and find the shard finished.
            path.unlink(missing_ok=True)
            lock.release()

    def close(self) -> None:
        """Give up all claims, so that others can go on with these shards."""
        while self._held:
            self._held.popitem()[1].release()

    def waits(self) -> Iterator[None]:
        """Wait a little longer each time, and say once that it is for others."""
        pause, started, said = SHORTEST_WAIT, time.monotonic(), False
        while True:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_WAIT)
            if not said and time.monotonic() - started > PATIENCE:
                said = True
                log.warning(
                    "%s: waiting for %d shards that other processes are making",
                    self._unfinished.path,
                    len(self.left),
                )
            yield

    def _lock(self, span: Span) -> FileLock | None:
        path = self._unfinished.lock_path(span)
        # The thread that writes lets go of what another has taken.
        lock = FileLock(path, thread_local=False)
        with files.storage_errors(path):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
        return lock
