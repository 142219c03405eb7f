"""What DeepCluster-v2 and SeLa-v2 share: labels made once an epoch, and learnt in it (SwAV supplement, section D)."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from carp_eval import distributed
from carp_eval.cards.swav import AssignmentRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import TrainingError
from carp_eval.models.network import Network
from carp_eval.pretrain import together, unit_prototypes
from carp_eval.pretrain.batches import ViewBatches
from carp_eval.pretrain.carp import embed
from carp_eval.pretrain.feature_memory import FeatureMemory
from carp_eval.pretrain.method import Losses, Method, Step

Recipe = TypeVar("Recipe", bound=AssignmentRecipe)

# Of an image that was not in the last epoch, whose last batch was not full.
UNLABELLED = -1


class PseudoLabelled(Method[Recipe]):
    """A method that labels all images before each epoch, by the features that the last epoch made on its way.

    The first epoch has none before it: all images are seen once, without gradient, as in the authors' code. Several
    sets of prototypes label images apart; each goes by one of the views that are assigned, in turn.
    """

    sign_names: ClassVar[Mapping[str, str]] = {"prototypes_used": "prototypes used"}
    student: Network

    def __init__(self, recipe: Recipe, *, learned: bool, device: torch.device) -> None:
        self.recipe = recipe
        self.student = unit_prototypes.build(recipe, learned=learned, device=device)
        self._memory: FeatureMemory | None = None
        self._labels = torch.full((recipe.prototypes.sets, 0), UNLABELLED)

    @abstractmethod
    def assign(self, memory: FeatureMemory, *, epoch: int, num_images: int) -> Int64[Tensor, "set image"]:
        """Label all images by the last epoch's features, the same in all processes.

        Args:
            memory: The features.
            epoch: The epoch that begins, from 0.
            num_images: Images in the data set.

        Returns:
            The prototype of each image in each set; `UNLABELLED` of images that have no features.
        """

    def start_epoch(self, epoch: int, batches: ViewBatches) -> None:
        """Label all images.

        Raises:
            TrainingError: If there are fewer of them than prototypes.
        """
        in_epoch = batches.steps_per_epoch * self.recipe.schedule.batch_size
        count = self.recipe.prototypes.count
        if in_epoch < count:
            raise TrainingError(
                f"prototypes.count is {count} and an epoch has {in_epoch} images: there can be as many prototypes as "
                "images at most, and a hundredth of that is better"
            )
        if self._memory is None:
            self._memory = self._first_features(in_epoch, batches)
        self._labels = self.assign(self._memory, epoch=epoch, num_images=batches.num_images)

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step, and keep its features."""
        assert self._memory is not None
        embedded = embed(student, batch.views)
        prototypes = unit_prototypes.of(self.student)
        with torch.autocast(prototypes.device.type, enabled=False):
            embedded = F.normalize(embedded.float(), dim=-1)
            loss = classification(
                embedded,
                prototypes,
                self._labels[:, batch.index].to(prototypes.device),
                temperature=self.recipe.temperature,
            )
        self._memory.write(step.number, batch.index, embedded[: self.recipe.num_assigned])
        return Losses(loss, {"largest_cluster": largest_share(self._labels)})

    def state(self) -> dict[str, Tensor]:
        """Return labels and features."""
        return {} if self._memory is None else {"labels": self._labels, **self._memory.state()}

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with labels and features."""
        if state:
            self._labels = state["labels"].clone()
            self._memory = FeatureMemory.like(state)

    def describe(self) -> str:
        """Say how many prototypes there are."""
        card = self.recipe.prototypes
        return (
            f"{card.count} prototypes" if card.sets == 1 else f"{card.sets} sets of {card.count} prototypes"
        )

    def notes(self) -> list[str]:
        """Say that the beginning takes longer."""
        return [
            "before the first step all images are seen once, to have features to label them by; later epochs go by "
            "those of the epoch before"
        ]

    def signs(self, network: Network, embeddings: Float[Tensor, "image dim"]) -> dict[str, float]:
        """Return the share of prototypes that are some image's nearest."""
        return {"prototypes_used": unit_prototypes.used(self.recipe, network, F.normalize(embeddings))}

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words what looks wrong: one label for most, predictions that stay even, features that collapse."""
        remedy = "Lower optimiser.lr, or take another prototypes.count"
        said: dict[str, str] = {}
        if seen.get("largest_cluster", 0.0) > 0.5:
            said["largest_cluster"] = (
                f"{seen['largest_cluster']:.0%} of the images have one and the same label: there is little left to "
                f"learn. {remedy}."
            )
        return said | unit_prototypes.warnings(self.recipe, seen=seen, remedy=remedy)

    @torch.no_grad()
    def _first_features(self, in_epoch: int, batches: ViewBatches) -> FeatureMemory:
        views, device = self.recipe.num_assigned, unit_prototypes.of(self.student).device
        memory = FeatureMemory(in_epoch, num_views=views, dim=self.recipe.head.output_dim)
        bf16 = self.recipe.schedule.precision == "bf16"
        for step, batch in enumerate(batches.epoch(0)):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                embedded = embed(self.student, [view.to(device) for view in batch.views[:views]])
            memory.write(step, batch.index, F.normalize(embedded.float(), dim=-1))
        return memory


def classification(
    embeddings: Float[Tensor, "view image dim"],
    prototypes: Float[Tensor, "prototype dim"],
    labels: Int64[Tensor, "set image"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Take the multinomial logistic loss of pseudo-labels (equation 2), the mean over sets, views and labelled images.

    Args:
        embeddings: Of unit length; all views of an image share its label.
        prototypes: Of unit length, sets one below another.
        labels: The label of each of this process's images, in each set alike there or `UNLABELLED`.
        temperature: tau.

    Returns:
        The mean over the images of all processes; ln K where all prototypes are as near.
    """
    num_views = len(embeddings)
    total = embeddings.new_zeros(())
    for own, targets in zip(prototypes.chunk(len(labels)), labels, strict=True):
        scores = embeddings.flatten(0, 1) @ own.T / temperature
        total = total + F.cross_entropy(
            scores, targets.repeat(num_views), ignore_index=UNLABELLED, reduction="sum"
        )
    # Processes have as many images, but not as many labels: the mean is that of all labels there are.
    labelled = distributed.sum_in_place((labels[0] != UNLABELLED).sum().to(total))
    share = labelled.clamp(min=1) / distributed.world_size()
    return together.mean(total / (share * num_views * len(labels)))


def largest_share(labels: Int64[Tensor, "set image"]) -> float:
    """Return the share of labelled images that the largest cluster of any set has."""
    shares = [0.0]
    for one in labels:
        known = one[one != UNLABELLED]
        if len(known):
            shares.append(known.bincount().max().item() / len(known))
    return max(shares)
