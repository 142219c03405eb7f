"""What this process holds that is no page of a file, at its highest, while something runs."""

import ctypes
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

# glibc's: from this size on, memory is returned as soon as it is freed, and what is held is what is in use.
M_MMAP_THRESHOLD = -3
STATUS = Path("/proc/self/status")
on_linux = pytest.mark.skipif(not STATUS.exists(), reason="tells memory as Linux does")


def private_bytes():
    lines = STATUS.read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


@contextmanager
def watched():
    """Give a list of one number: how much more was held than at the start."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    mallopt(M_MMAP_THRESHOLD, 2**18)
    held, over, most = private_bytes(), threading.Event(), [0]

    def watch():
        while not over.is_set():
            most[0] = max(most[0], private_bytes() - held)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
        mallopt(M_MMAP_THRESHOLD, 2**25)
