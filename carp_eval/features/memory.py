"""How much memory a search may take."""

from pathlib import Path

import psutil

# Of the memory there is, a search takes a quarter: the rest is for the system's cache of files and for others.
SHARE = 4
# Where a container says how much of the machine it has: version 2 of cgroups, then 1.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def default_budget() -> int:
    """Return a quarter of the memory that this process can have, in bytes."""
    return min(psutil.virtual_memory().total, *(_limit(path) for path in LIMITS)) // SHARE


def _limit(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # Not Linux, another version of cgroups, or "max": nothing is limited here.
        return 2**63
