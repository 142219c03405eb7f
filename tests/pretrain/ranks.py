"""`carp` run by several processes as torchrun would start them, but forked: nothing is imported anew."""

import contextlib
import io
import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from accelerate.state import AcceleratorState

from tests.features.processes import Started


@dataclass
class Rank:
    """What one process runs.

    Attributes:
        arguments: Of `carp`.
        where: Its working folder.
        change: Called in the process before it starts; faults are put in there.
    """

    arguments: list
    where: Path
    change: object = None
    environ: dict = field(default_factory=dict)


def run(*ranks, launch="one", attempt=0):
    """Run the processes together; return the exit code and standard error of each, or None for one that died."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {
        "WORLD_SIZE": str(len(ranks)),
        "LOCAL_WORLD_SIZE": str(len(ranks)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    started = []
    for number, rank in enumerate(ranks):
        own = {"RANK": str(number), "LOCAL_RANK": str(number)}
        if len(ranks) > 1:
            own["TORCHELASTIC_ERROR_FILE"] = f"/agents/{launch}/attempt_{attempt}/{number}/error.json"
        started.append(Started(_carp, rank, world | own))
    return [process.answer() for process in started]


def _carp(rank, environ):
    from carp_eval.commands.app import main

    os.environ.update(environ)
    os.chdir(rank.where)
    AcceleratorState._reset_state(reset_partial_state=True)
    sys.argv = ["carp", *map(str, rank.arguments)]
    if rank.change is not None:
        rank.change()
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        try:
            main()
        except SystemExit as stopped:
            return stopped.code or 0, told.getvalue()
    return 0, told.getvalue()
