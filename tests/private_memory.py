"""What this process holds that is no page of a file, at its highest, while something runs."""

import ctypes
from contextlib import contextmanager

import pytest

from benchmarks import private_memory

# glibc's: from this size on, memory is returned as soon as it is freed, and what is held is what is in use.
M_MMAP_THRESHOLD = -3
on_linux = pytest.mark.skipif(not private_memory.STATUS.exists(), reason="tells memory as Linux does")


@contextmanager
def watched():
    """Give a list of one number: how much more was held than at the start."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    mallopt(M_MMAP_THRESHOLD, 2**18)
    try:
        with private_memory.watched(every=0.001) as most:
            yield most
    finally:
        mallopt(M_MMAP_THRESHOLD, 2**25)
