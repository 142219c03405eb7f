"""Batches of views for training: the same whatever the number of workers, and from any step on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from carp_eval import seeds
from carp_eval.data import order
from carp_eval.data.image_loader import ImageLoader, Request
from carp_eval.data.images import Images
from carp_eval.data.skipping import SkippedImages
from carp_eval.data.streamed import StreamedImages

# Makes the views of one image from a seed of its own.
MakeViews = Callable[[Image.Image, int], list[Tensor]]


class TrainingBatch(NamedTuple):
    """The images of one step.

    Attributes:
        views: One tensor for each view, in the order of the recipe; views may differ in size.
        index: Each image's number in the split.
    """

    views: list[Float[Tensor, "image channel size size"]]
    index: Int64[Tensor, " image"]  # pyright: ignore[reportIncompatibleMethodOverride]


class TrainingBatches:
    """Deals a split's images to the steps of each epoch, and makes their views in worker processes.

    A view's chance depends on the seed, the epoch and the image's number alone: not on the step, the process or the
    worker that makes it. So an epoch that is taken up at a step goes on as if it had never stopped.
    """

    def __init__(
        self,
        images: Images,
        views: MakeViews,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int | None = None,
        skip_bad: SkippedImages | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Make ready; workers start with the first step and stay for all epochs.

        Args:
            images: The split to train on.
            views: Makes the views of an image from a seed; it must pickle.
            batch_size: Images in a step, over all processes.
            seed: Of the whole training.
            rank: This process.
            world_size: How many there are.
            num_workers: Processes that make views; 0 for none; left out, as many as make sense.
            skip_bad: Collects images that cannot be read, whose place the next one takes; without it the first is
                an error.
            pin_memory: Whether batches lie in memory from which a GPU copies fast.

        Raises:
            DataError: If there are fewer images than one batch takes.
            UsageError: If the processes cannot share a batch evenly.
        """
        self._images = images
        self._seed = seed
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self.num_steps = order.num_steps(len(images), batch_size)
        order.check_share(batch_size, world_size)
        self._loader = ImageLoader(
            images,
            _Viewed(views, seed),
            num_workers=num_workers,
            skip_bad=skip_bad,
            replace_bad=True,
            pin_memory=pin_memory,
        )

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[TrainingBatch]:
        """Yield this process's part of each step of an epoch.

        Args:
            epoch: From 0.
            start_step: How many steps of it were taken before.

        Raises:
            BadImageError: If an image cannot be read and nobody collects such images.
            DataError: If a stream ends before it should, or cannot be read.
        """
        for prepared in self._loader.load(self._requests(epoch, start_step)):
            yield TrainingBatch(prepared.tensors, prepared.numbers)

    def _requests(self, epoch: int, start_step: int) -> Iterable[Request]:
        """Deal this process's part of an epoch's images to its steps."""
        share: dict[str, Any] = {
            "seed": self._seed,
            "epoch": epoch,
            "batch_size": self._batch_size,
            "rank": self._rank,
            "world_size": self._world_size,
            "start_step": start_step,
        }
        if isinstance(self._images, StreamedImages):
            return (Request(dealt.numbers, epoch, dealt.encoded) for dealt in self._images.deal(**share))
        steps = order.epoch_steps(len(self._images), shard_sizes=self._images.shard_sizes, **share)
        return [Request(numbers, epoch) for numbers in steps.tolist()]

    def close(self) -> None:
        """Stop the workers, which otherwise end with this object or the process."""
        self._loader.close()


@dataclass(frozen=True)
class _Viewed:
    views: MakeViews
    seed: int

    def __call__(self, image: Image.Image, number: int, epoch: int) -> list[Tensor]:
        return self.views(image, seeds.derive(self.seed, "views", epoch, number))
