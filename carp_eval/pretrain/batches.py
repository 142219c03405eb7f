"""Where a training's views come from: an epoch's batches, from any step of it on."""

from collections.abc import Generator, Iterator
from contextlib import closing

import torch
from jaxtyping import UInt8
from torch import Tensor

from carp_eval import distributed, seeds
from carp_eval.cards.recipe import RecipeCard
from carp_eval.data import order
from carp_eval.data.batch_views import BatchViews
from carp_eval.data.finishing import Finishing
from carp_eval.data.image_loader import default_workers
from carp_eval.data.images import Images
from carp_eval.data.loading import in_memory
from carp_eval.data.moving import moved
from carp_eval.data.pixels import pixels_of
from carp_eval.data.skipping import SkippedImages
from carp_eval.data.training_batches import TrainingBatch, TrainingBatches
from carp_eval.data.views import UnfinishedViews, Views
from carp_eval.pretrain.ahead import ahead
from carp_eval.pretrain.waiting import ENOUGH, Waiting, advice

# Pixels of a whole data set are moved to a GPU if they take no more than this share of what is free there.
_SHARE_FOR_PIXELS = 0.1


class ViewBatches:
    """The views of a recipe's images, in the order of its seed; this process's share of each step.

    What the views show depends on neither workers nor device, nor does the order.

    Attributes:
        num_images: Images in the split, over all processes.
        steps_per_epoch: Steps of an epoch; images of a last batch that is not full wait for another epoch.
    """

    def __init__(
        self,
        recipe: RecipeCard,
        images: Images,
        *,
        device: torch.device | None = None,
        num_workers: int | None = None,
        skipped: SkippedImages | None = None,
    ) -> None:
        """Make ready.

        Args:
            recipe: What to train.
            images: The split to train on.
            device: Where views are wanted; None is the CPU.
            num_workers: Processes that load images; None is from the cores.
            skipped: Where unreadable images are noted; None stops at the first.

        Raises:
            DataError: If there are fewer images than one batch takes.
            UsageError: If the processes cannot share a batch evenly.
            CardError: If a view asks for what its images cannot give.
        """
        self._recipe = recipe
        self._device = device or torch.device("cpu")
        self._batch_size = recipe.schedule.batch_size
        self._num_workers = default_workers(images) if num_workers is None else num_workers
        self._waiting, self._advised = Waiting(self._device), False
        self.num_images = len(images)
        self.steps_per_epoch = order.num_steps(len(images), self._batch_size)
        order.check_share(self._batch_size, distributed.world_size())
        data, self._one_by_one, self._pixels, self._finish = recipe.data, None, None, None
        if data.augment == "per_batch":
            self._pixels = _near(_all_pixels(recipe, images, num_workers), self._device)
            self._batch_views = BatchViews(recipe.views, mean=data.mean, std=data.std)
            return
        views = Views(recipe.views, mean=data.mean, std=data.std)
        if data.augment == "on_device":
            self._finish = Finishing(recipe.views, mean=data.mean, std=data.std, device=self._device)
        self._one_by_one = TrainingBatches(
            images,
            views if self._finish is None else UnfinishedViews(views),
            batch_size=self._batch_size,
            seed=recipe.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            num_workers=num_workers,
            skip_bad=skipped,
            pin_memory=self._device.type == "cuda",
        )

    @property
    def loading_share(self) -> float:
        """Share of the last steps' time in which the next views were waited for."""
        return self._waiting.share

    def advice(self) -> str:
        """Say once, when enough steps were seen, that loading cannot keep up and what to change; else nothing."""
        # Where whole batches are made at once, there is nothing that a process could wait for.
        if self._advised or self._waiting.steps < ENOUGH or self._one_by_one is None:
            return ""
        self._advised = True
        return advice(
            self._waiting,
            batch_size=self._batch_size,
            augment=self._recipe.data.augment,
            num_workers=self._num_workers,
        )

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[TrainingBatch]:
        """Yield the views of each step of an epoch on the device, and the numbers of their images, from a step on.

        Raises:
            BadImageError: If an image cannot be read and nobody collects such images.
        """
        with closing(self._made(epoch, start_step)) as batches:
            yield from self._waiting.watch(ahead(batches, self._device))

    def _made(self, epoch: int, start_step: int) -> Generator[TrainingBatch]:
        if self._one_by_one is not None:
            for batch in self._one_by_one.epoch(epoch, start_step=start_step):
                yield TrainingBatch(self._finished(batch.views), batch.index)
            return
        assert self._pixels is not None
        steps = order.epoch_steps(
            len(self._pixels),
            seed=self._recipe.seed,
            epoch=epoch,
            batch_size=self._batch_size,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            start_step=start_step,
        )
        for step, numbers in enumerate(torch.from_numpy(steps), start=start_step):
            chance = seeds.generator(self._recipe.seed, "views", epoch, step, distributed.rank())
            chosen = moved(self._pixels[moved(numbers, self._pixels.device)], self._device)
            yield TrainingBatch(self._batch_views(chosen, chance), numbers)

    def _finished(self, loaded: list[Tensor]) -> list[Tensor]:
        """Bring what workers made to the device, and make views of it that are not yet."""
        if self._finish is None:
            return [moved(view, self._device) for view in loaded]
        *views, drawn = loaded
        return self._finish(views, drawn)


def _all_pixels(
    recipe: RecipeCard, images: Images, num_workers: int | None
) -> UInt8[Tensor, "image channel height width"]:
    pixels = pixels_of(in_memory(images, channels=recipe.trunk.channels, num_workers=num_workers))
    assert pixels is not None
    return pixels


def _near(
    pixels: UInt8[Tensor, "image channel height width"], device: torch.device
) -> UInt8[Tensor, "image channel height width"]:
    """Move pixels to a device whose memory has plenty of room for them."""
    if device.type != "cuda" or pixels.nbytes > _SHARE_FOR_PIXELS * torch.cuda.mem_get_info(device)[0]:
        return pixels
    return pixels.to(device)
