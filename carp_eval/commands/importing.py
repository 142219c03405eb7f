"""Imports of what a command computes with."""

import atexit
import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Generator[None]:
    """Import in the block without looking for garbage meanwhile.

    Modules stay as long as the process does, and each look goes through all that is there: half a second beside torch.
    """
    looked_for = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Once: what a process that goes on has made since then may be garbage one day.
        if not gc.get_freeze_count():
            gc.freeze()
            # At the end all is garbage; what stayed frozen would be told of as a leak by some extensions.
            atexit.register(gc.unfreeze)
        if looked_for:
            gc.enable()
