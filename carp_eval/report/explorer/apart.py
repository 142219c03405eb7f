"""UMAP in a process of its own: its compiled loops let no other thread of theirs go on, for seconds at a time."""

import multiprocessing
import os
import pickle
import signal
from multiprocessing.connection import Connection

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval.errors import BankError
from carp_eval.report import plane as planes
from carp_eval.report.plane import Plane

# Of the nice levels of Unix: what is asked meanwhile goes before.
NICE = 10


class Unfolding:
    """A map being drawn by UMAP elsewhere."""

    def __init__(self) -> None:
        self._own, self._other = multiprocessing.Pipe()
        # Not a fork: the copy would wait for threads that it has not.
        self._process = multiprocessing.get_context("spawn").Process(
            target=_answer, args=(self._other,), daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._process.start()
        # What is held here would keep the end of the process from being seen.
        self._other.close()

    def draw(self, features: Float32[Tensor, "point dim"]) -> Plane:
        """Wait for the map.

        Args:
            features: What is drawn.

        Raises:
            BankError: If the process ends before.
        """
        try:
            # Plain bytes: torch would share its memory with a process, which a container may forbid.
            self._own.send_bytes(pickle.dumps(features.numpy()))
            return pickle.loads(self._own.recv_bytes())
        except (EOFError, OSError) as error:
            raise BankError(
                "the process that draws the map has ended: is there too little memory? --map pca takes less"
            ) from error

    def stop(self) -> None:
        """End, whether it is drawn or not."""
        self._process.kill()


def _answer(asking: Connection) -> None:
    # Ctrl-C is for all processes of a terminal; the server ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICE)
    features: Float32[np.ndarray, "point dim"] = pickle.loads(asking.recv_bytes())
    asking.send_bytes(pickle.dumps(planes.draw(torch.from_numpy(features), umap=True)))
