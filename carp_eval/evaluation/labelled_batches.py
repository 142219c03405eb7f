"""The batches of a training with labels: the same images and crops whatever the number of workers and processes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from carp_eval import distributed, seeds
from carp_eval.cards.pixel_training import PixelTrainingCard
from carp_eval.cards.recipe import ViewCard
from carp_eval.data.image_loader import ImageLoader, Request
from carp_eval.data.images import Batch, Images, ModelInput
from carp_eval.data.skipping import SkippedImages
from carp_eval.data.views import Views


@dataclass(frozen=True)
class Deal:
    """Which images of a batch are this process's.

    Attributes:
        size: Images in the whole batch.
        start: Place of this process's first in it.
        numbers: This process's images, by their number in the split.
    """

    size: int
    start: int
    numbers: list[int]

    @property
    def stop(self) -> int:
        """The place behind this process's last image."""
        return self.start + len(self.numbers)


class LabelledBatches:
    """Deals a split's images to the batches of each epoch, and each batch's to the processes, in one piece each.

    An image's crop depends on the seed, the epoch and its number alone. The last batch of an epoch takes what is left,
    as PyTorch's loader does and with it the sources, where `TrainingBatches` lets it wait.

    Attributes:
        num_images: Images of an epoch.
    """

    def __init__(
        self,
        images: Images,
        views: Views,
        *,
        batch_size: int,
        seed: int,
        chunk: int | None = None,
        fewest: int = 0,
        num_workers: int | None = None,
        skip_bad: SkippedImages | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Make ready; workers start with the first batch and stay for all epochs.

        Args:
            images: The split to train on.
            views: Makes one crop of an image from a seed.
            batch_size: Images in a batch, over all processes.
            seed: Of the order and the crops.
            chunk: Images that are loaded at a time, at most; None is a process's whole share.
            fewest: Images that each process needs at least: a batch that has fewer is left out.
            num_workers: Processes that load images; None is from the cores.
            skip_bad: Collects images that cannot be read, whose place the next one takes; without it the first is an
                error.
            pin_memory: Whether batches lie in memory from which a GPU copies fast.
        """
        self._count = len(images)
        self._batch_size = batch_size
        self._seed = seed
        self._chunk = chunk or batch_size
        self._fewest = fewest
        self._loader = ImageLoader(
            images,
            _Cropped(views, seed),
            num_workers=num_workers,
            skip_bad=skip_bad,
            replace_bad=True,
            pin_memory=pin_memory,
        )
        self.num_images = sum(deal.size for deal in self.deals(0))

    def deals(self, epoch: int) -> list[Deal]:
        """Return this process's part of each batch of an epoch, which may be empty."""
        order = torch.randperm(self._count, generator=seeds.generator(self._seed, "order", epoch))
        world, rank = distributed.world_size(), distributed.rank()
        deals: list[Deal] = []
        for batch in order.split(self._batch_size):
            shares = batch.tensor_split(world)
            if min(map(len, shares)) >= self._fewest:
                start = sum(map(len, shares[:rank]))
                deals.append(Deal(len(batch), start, shares[rank].tolist()))
        return deals

    def load(self, epoch: int) -> Iterator[Batch]:
        """Yield this process's images of an epoch, in the order of the deals, no two deals' images together."""
        chunks = [
            Request(deal.numbers[start : start + self._chunk], epoch)
            for deal in self.deals(epoch)
            for start in range(0, len(deal.numbers), self._chunk)
        ]
        for prepared in self._loader.load(chunks):
            yield Batch(prepared.tensors[0], prepared.numbers)

    def close(self) -> None:
        """Stop the workers."""
        self._loader.close()


def crops(card: PixelTrainingCard, *, size: int, model_input: ModelInput) -> Views:
    """Make the card's random crops, of a size that the model takes."""
    view = ViewCard(
        size=size,
        scale=card.crop_scale,
        ratio=card.crop_ratio,
        interpolation=card.crop_interpolation,
        flip=card.flip,
        jitter=(0.0, 0.0, 0.0, 0.0),
        jitter_probability=0.0,
        grey=0.0,
    )
    return Views([view], mean=model_input.mean, std=model_input.std)


@dataclass(frozen=True)
class _Cropped:
    views: Views
    seed: int

    def __call__(self, image: Image.Image, number: int, epoch: int) -> list[Tensor]:
        return self.views(image, seeds.derive(self.seed, "views", epoch, number))
