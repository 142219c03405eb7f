"""The queue of SwAV's small batches: embeddings of the batches before (supplement A.6)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval import distributed
from carp_eval.pretrain import together


class EmbeddingQueue:
    """The last embeddings of each view, newest first; each process holds those of its own images."""

    def __init__(self, length: int, *, num_views: int, dim: int, device: torch.device) -> None:
        """Make an empty queue.

        Args:
            length: Embeddings of each view, over all processes.
            num_views: Views, which are queued apart.
            dim: Width of an embedding.
            device: Where.
        """
        self._rows = torch.zeros(num_views, length // distributed.world_size(), dim, device=device)
        self._filled = 0

    @property
    def share_filled(self) -> float:
        """How full the queue is, from 0 to 1."""
        return self._filled / self._rows.shape[1]

    def rows(self) -> list[Float[Tensor, "queued dim"]]:
        """Return the embeddings of each view once the queue is full; before, nothing."""
        return list(self._rows) if self._filled == self._rows.shape[1] else []

    def push(self, embeddings: Float[Tensor, "view image dim"]) -> None:
        """Let this step's embeddings in, and as many of the oldest out."""
        length = self._rows.shape[1]
        self._rows = torch.cat([embeddings.detach(), self._rows], dim=1)[:, :length]
        self._filled = min(length, self._filled + embeddings.shape[1])

    def state(self) -> dict[str, Tensor]:
        """Return what all processes hold; all call it together."""
        # The rows' axis first: processes are gathered along it.
        return {
            "queue": together.gather_plain(self._rows.transpose(0, 1)),
            "queue_filled": torch.tensor(self._filled),
        }

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned, this process with its own share."""
        own = state["queue"].chunk(distributed.world_size())[distributed.rank()]
        self._rows = own.transpose(0, 1).to(self._rows.device, copy=True)
        self._filled = int(state["queue_filled"])
