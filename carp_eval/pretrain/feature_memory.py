"""The features of an epoch, kept as they are made, for what looks at all of them when it is over (SwAV, D.2)."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from carp_eval import distributed


class FeatureMemory:
    """Each image's features of some of its views, as its last step made them; a process holds those of its own.

    It lies in main memory, whatever the device: of ImageNet, two views of 128 numbers are 1.3 GB over all processes.

    Attributes:
        index: Numbers of the images in the data set.
        features: Their features.
    """

    index: Int64[Tensor, " row"]
    features: Float[Tensor, "row view dim"]

    def __init__(self, num_images: int, *, num_views: int, dim: int) -> None:
        """Make room.

        Args:
            num_images: Images of an epoch, over all processes.
            num_views: Views that are kept.
            dim: Width of the features.
        """
        own = num_images // distributed.world_size()
        self.index = torch.full((own,), -1)
        self.features = torch.zeros(own, num_views, dim)

    def write(
        self, step: int, index: Int64[Tensor, " image"], features: Float[Tensor, "view image dim"]
    ) -> None:
        """Keep what a step has made, over what the same step of the last epoch did.

        Args:
            step: Its number, counted from any epoch's first.
            index: Numbers of this process's images.
            features: Their features.
        """
        first = step * len(index) % len(self.index)
        own = slice(first, first + len(index))
        self.index[own] = index
        self.features[own] = features.detach().transpose(0, 1).cpu()

    def everything(self) -> tuple[Int64[Tensor, " image"], Float[Tensor, "image view dim"]] | None:
        """Return the numbers and features of all images, in their order; in other processes than the main one, None."""
        index, features = _to_main(self.index), _to_main(self.features)
        if index is None or features is None:
            return None
        # The same order with any number of processes: what is made of them, be it by chance, is the same too.
        order = index.argsort(stable=True)
        return index[order], features[order]

    def state(self) -> dict[str, Tensor]:
        """Return what all processes hold, in the main one; all call it together."""
        index, features = _to_main(self.index), _to_main(self.features)
        if index is None or features is None:
            return {}
        return {"memory_index": index, "memory_features": features}

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned, this process with its own share."""
        number, processes = distributed.rank(), distributed.world_size()
        self.index.copy_(state["memory_index"].chunk(processes)[number])
        self.features.copy_(state["memory_features"].chunk(processes)[number])

    @staticmethod
    def like(state: Mapping[str, Tensor]) -> "FeatureMemory":
        """Return a memory of what `state` returned."""
        num_images, num_views, dim = state["memory_features"].shape
        memory = FeatureMemory(num_images, num_views=num_views, dim=dim)
        memory.take_state(state)
        return memory


def _to_main(rows: Shaped[Tensor, "row *axes"]) -> Shaped[Tensor, "all *axes"] | None:
    """Gather all processes' rows in the main one alone: each machine has room for its own."""
    if distributed.world_size() == 1:
        return rows
    if not distributed.is_main():
        dist.gather(rows, dst=0)
        return None
    gathered = [torch.empty_like(rows) for _ in range(distributed.world_size())]
    dist.gather(rows, gathered, dst=0)
    return torch.cat(gathered)
