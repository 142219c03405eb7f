"""The DeepCluster-v2 method: k-means of the last epoch's features gives both labels and head (SwAV supplement, D)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval import distributed, seeds
from carp_eval.cards.swav import DeepClusterRecipe
from carp_eval.evaluation import kmeans
from carp_eval.pretrain import unit_prototypes
from carp_eval.pretrain.feature_memory import FeatureMemory
from carp_eval.pretrain.pseudo_labels import UNLABELLED, PseudoLabelled

# What FAISS takes for a seed.
_SEEDS = 2**31


class DeepCluster(PseudoLabelled[DeepClusterRecipe]):
    """One network, whose prototypes are centres that no gradient moves (equation 3)."""

    def __init__(self, recipe: DeepClusterRecipe, *, device: torch.device) -> None:
        super().__init__(recipe, learned=False, device=device)

    def assign(self, memory: FeatureMemory, *, epoch: int, num_images: int) -> Int64[Tensor, "set image"]:
        """Cluster the features in the main process, and take the centres for prototypes (equation 5).

        FAISS gives an empty cluster half of a large one; the authors' code leaves it empty.
        """
        prototypes, sets = unit_prototypes.of(self.student), self.recipe.prototypes.sets
        labels = torch.full((sets, num_images), UNLABELLED)
        gathered = memory.everything()
        with distributed.failing_together():
            if gathered is not None:
                index, features = gathered
                for number, own in enumerate(prototypes.detach().chunk(sets)):
                    rows = features[:, number % self.recipe.num_assigned].contiguous()
                    seed = seeds.derive(self.recipe.seed, "clusters", epoch, number) % _SEEDS
                    centres, labels[number, index] = self._cluster(rows, seed=seed)
                    own.copy_(centres)
        distributed.broadcast_in_place(prototypes.detach())
        return distributed.broadcast_in_place(labels)

    def _cluster(
        self, rows: Float[Tensor, "image dim"], *, seed: int
    ) -> tuple[Float[Tensor, "prototype dim"], Int64[Tensor, " image"]]:
        clusters = kmeans.fit(
            rows,
            clusters=self.recipe.prototypes.count,
            iterations=self.recipe.clustering.iterations,
            restarts=1,
            spherical=True,
            points_per_centre=0,
            seed=seed,
        )
        return torch.from_numpy(clusters.centres), torch.from_numpy(kmeans.assign(rows, clusters))
