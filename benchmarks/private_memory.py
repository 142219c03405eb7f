"""What this process holds in pages of its own while something runs: pages of files are left out."""

import threading
from contextlib import contextmanager
from pathlib import Path

STATUS = Path("/proc/self/status")


def private_bytes():
    """What is held now; 0 where the system does not tell (it does on Linux)."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else ["RssAnon: 0 kB"]
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


@contextmanager
def watched(every=0.005):
    """Give a list of one number: the most that was held above what was held before, looked at every so many seconds."""
    before, over, most = private_bytes(), threading.Event(), [0]

    def watch():
        while not over.wait(every):
            most[0] = max(most[0], private_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
