"""Where a training's views come from: an epoch's batches, from any step of it on."""

from collections.abc import Iterator

import torch

from carp_eval import distributed, seeds
from carp_eval.cards.recipe import RecipeCard
from carp_eval.data import order
from carp_eval.data.batch_views import BatchViews
from carp_eval.data.images import Images
from carp_eval.data.loading import in_memory
from carp_eval.data.pixels import pixels_of
from carp_eval.data.skipping import SkippedImages
from carp_eval.data.training_batches import TrainingBatch, TrainingBatches
from carp_eval.data.views import Views


class ViewBatches:
    """The views of a recipe's images, in the order of its seed; this process's share of each step.

    Attributes:
        num_images: Images in the split, over all processes.
        steps_per_epoch: Steps of an epoch; images of a last batch that is not full wait for another epoch.
    """

    def __init__(
        self,
        recipe: RecipeCard,
        images: Images,
        *,
        num_workers: int | None = None,
        skipped: SkippedImages | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Make ready.

        Args:
            recipe: What to train.
            images: The split to train on.
            num_workers: Processes that load images; None is from the cores.
            skipped: Where unreadable images are noted; None stops at the first.
            pin_memory: Whether batches lie in memory from which a GPU copies fast.

        Raises:
            DataError: If there are fewer images than one batch takes.
            UsageError: If the processes cannot share a batch evenly.
            CardError: If a view asks for what its images cannot give.
        """
        self._recipe = recipe
        self._batch_size = recipe.schedule.batch_size
        self.num_images = len(images)
        self.steps_per_epoch = order.num_steps(len(images), self._batch_size)
        order.check_share(self._batch_size, distributed.world_size())
        data, self._one_by_one, self._pixels = recipe.data, None, None
        if data.augment == "per_batch":
            self._pixels = pixels_of(
                in_memory(images, channels=recipe.trunk.channels, num_workers=num_workers)
            )
            self._batch_views = BatchViews(recipe.views, mean=data.mean, std=data.std)
        else:
            self._one_by_one = TrainingBatches(
                images,
                Views(recipe.views, mean=data.mean, std=data.std),
                batch_size=self._batch_size,
                seed=recipe.seed,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                num_workers=num_workers,
                skip_bad=skipped,
                pin_memory=pin_memory,
            )

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[TrainingBatch]:
        """Yield the views of each step of an epoch, and the numbers of their images, from a step on.

        Raises:
            BadImageError: If an image cannot be read and nobody collects such images.
        """
        if self._one_by_one is not None:
            yield from self._one_by_one.epoch(epoch, start_step=start_step)
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
            yield TrainingBatch(self._batch_views(self._pixels[numbers], chance), numbers)
