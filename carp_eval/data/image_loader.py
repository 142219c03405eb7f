"""Worker processes that decode images and make tensors of them, in the order that is asked for."""

import os
import signal
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from types import FrameType
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from carp_eval.data import stopwatch
from carp_eval.data.decoding import decode
from carp_eval.data.images import Images
from carp_eval.data.skipping import SkippedImage, SkippedImages
from carp_eval.data.stopwatch import Laps, Spent
from carp_eval.errors import BadImageError, CarpError, DataError

MOST_WORKERS = 16
# Fewer images than this are done before workers have started.
FEWEST_FOR_WORKERS = 256
# Of workers that stand back: a tenth of the share of a process that has none.
NICENESS = 10


class Request(NamedTuple):
    """What a worker is asked for.

    Attributes:
        numbers: The images of one batch, by their number in the split.
        epoch: The epoch, which the chance in views depends on.
        encoded: Their bytes, where they come in a stream; otherwise the worker reads them.
    """

    numbers: list[int]
    epoch: int = 0
    encoded: list[bytes] | None = None


class Prepared(NamedTuple):
    """One batch as it leaves a worker.

    Attributes:
        tensors: What was made of the images, each stacked along a first axis; empty if none could be read.
        numbers: The images that are in it.
        bad: Those that could not be read.
        failure: An error that ends the loading.
        laps: What reading, decoding and transforming them took; None where nobody asked.
    """

    tensors: list[Tensor]
    numbers: Int64[Tensor, " image"]
    bad: list[SkippedImage]
    failure: CarpError | None = None
    laps: Laps | None = None


# Makes tensors of one image, given its number in the split and the epoch.
Prepare = Callable[[Image.Image, int, int], list[Tensor]]


def default_workers(images: Images) -> int:
    """Choose how many processes decode: this process's share of the cores; none for a few images."""
    if len(images) < FEWEST_FOR_WORKERS:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # torchrun starts several of us on one machine and says so here.
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class ImageLoader:
    """Turns requests into batches, one after the other, with workers that live as long as this object.

    What comes out does not depend on the number of workers. A worker runs one thread (torch sees to that) and leaves
    Ctrl-C and SIGTERM to the process that started it; it ends when that process does, however it ends.
    """

    def __init__(
        self,
        images: Images,
        prepare: Prepare,
        *,
        num_workers: int | None = None,
        skip_bad: SkippedImages | None = None,
        replace_bad: bool = False,
        pin_memory: bool = False,
        timed: bool = False,
        stand_back: bool = False,
    ) -> None:
        """Make ready; workers start with the first batch.

        Args:
            images: What is loaded.
            prepare: Makes tensors of one image; it is sent to the workers, so it must pickle.
            num_workers: Processes; 0 decodes in this one; left out, `default_workers`.
            skip_bad: Collects images that cannot be read; without it the first one is an error.
            replace_bad: Whether the next readable image takes a bad one's place, so that batches stay full.
            pin_memory: Whether batches lie in memory from which a GPU copies fast.
            timed: Whether batches tell what they took.
            stand_back: Whether workers leave the cores to this process while it computes on them.
        """
        self._worker = _Worker(images, prepare, replace_bad=replace_bad and skip_bad is not None, timed=timed)
        self._stand_back = stand_back
        self._num_workers = default_workers(images) if num_workers is None else num_workers
        self._pin_memory = pin_memory
        self._skip_bad = skip_bad
        self._plan = _Plan()
        self._passes = 0
        self._loader: DataLoader[Prepared] | None = None
        self._stop_workers: weakref.finalize[..., ImageLoader] | None = None

    def load(self, requests: Iterable[Request]) -> Generator[Prepared]:
        """Yield a batch for each request, in order; those without one readable image are left out.

        Workers stay for the next call if this one is taken to its end, and are stopped if it is not.

        Raises:
            BadImageError: If an image cannot be read and nobody collects such images.
            DataError: If the images of a batch cannot be stacked, or a worker was killed.
        """
        self._plan.requests = requests
        self._passes += 1
        this_pass = self._passes
        finished = False
        try:
            for batch in self._start():
                self._judge(batch)
                if batch.tensors:
                    yield batch
            finished = True
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that loads images was killed ({error}); most often memory or shared memory (/dev/shm) "
                f"has run out: use fewer workers or smaller batches"
            ) from error
        finally:
            if not finished and this_pass == self._passes:
                self.close()

    def close(self) -> None:
        """Stop the workers; the next pass starts new ones."""
        if self._stop_workers is not None:
            self._stop_workers()
        self._loader = self._stop_workers = None

    def _start(self) -> Iterator[Prepared]:
        """Start a pass, and workers if there are none."""
        if self._loader is None:
            self._loader = DataLoader(
                self._worker,
                sampler=self._plan,
                batch_size=None,
                num_workers=self._num_workers,
                collate_fn=_as_it_is,
                pin_memory=self._pin_memory,
                worker_init_fn=_BehindParent(stand_back=self._stand_back) if self._num_workers else None,
                persistent_workers=self._num_workers > 0,
                # Its own, or every epoch would take a number from the caller's random state.
                generator=torch.Generator(),
            )
        iterator = iter(self._loader)
        shut_down: Callable[[], None] | None = getattr(iterator, "_shutdown_workers", None)
        if self._stop_workers is None and shut_down is not None:
            # Torch shuts workers down when the iterator is destroyed. Where the garbage collector does that, the
            # queues are closed first, no worker hears of it, and each is waited for in vain for ten seconds.
            self._stop_workers = weakref.finalize(self, shut_down)
        return iterator

    def _judge(self, batch: Prepared) -> None:
        if batch.failure is not None:
            raise batch.failure
        for bad in batch.bad:
            if self._skip_bad is None:
                raise BadImageError(
                    f"{bad.reason}; repair or remove it, or leave such images out with --skip-bad"
                )
            self._skip_bad.add(bad)


class _Worker(Dataset[Prepared]):
    """What a worker does with a request. Errors travel as values: torch would wrap them in tracebacks."""

    def __init__(self, images: Images, prepare: Prepare, *, replace_bad: bool, timed: bool) -> None:
        self._images = images
        self._prepare = prepare
        self._replace_bad = replace_bad
        self._timed = timed

    def __getitem__(self, request: Request) -> Prepared:
        if not self._timed:
            return self._prepared(request)
        with stopwatch.running() as laps:
            prepared = self._prepared(request)
        whole, decoding = laps.pop("image", Spent()), laps.get("decode", Spent())
        # Whatever is done for an image that is not decoding it, a data set does to get at its bytes.
        laps["read"] = whole.minus(decoding)
        return prepared._replace(laps=laps)

    def _prepared(self, request: Request) -> Prepared:
        made: list[list[Tensor]] = []
        numbers: list[int] = []
        bad: list[SkippedImage] = []
        for place in range(len(request.numbers)):
            for candidate, encoded in self._candidates(request, place):
                try:
                    made.append(self._make(candidate, request.epoch, encoded))
                except BadImageError as error:
                    bad.append(SkippedImage(candidate, self._images.key(candidate), str(error)))
                else:
                    numbers.append(candidate)
                    break
        stacked: list[Tensor] = []
        failure: CarpError | None = None
        for tensors in zip(*made, strict=True):
            shapes = {tuple(tensor.shape) for tensor in tensors}
            if len(shapes) > 1:
                shown = " and ".join(str(shape) for shape in sorted(shapes)[:2])
                failure = DataError(
                    f"the images of {self._images.name} come out in several sizes, such as {shown}"
                )
                break
            # In a worker this stacks into shared memory, which saves a copy on the way out.
            with stopwatch.lap("transform"):
                stacked.append(default_collate(list(tensors)))
        if self._replace_bad and not numbers:
            failure = BadImageError(
                f"not one image of {self._images.name} can be read; the first: {bad[0].reason}"
            )
        return Prepared(
            stacked if failure is None else [], torch.tensor(numbers, dtype=torch.int64), bad, failure
        )

    def _candidates(self, request: Request, place: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield an image, then those that may take its place: in the order of the data set, or of a stream's batch."""
        if request.encoded is not None:
            others = range(place, place + (len(request.numbers) if self._replace_bad else 1))
            for at in (other % len(request.numbers) for other in others):
                yield request.numbers[at], request.encoded[at]
            return
        number = request.numbers[place]
        yield number, None
        if self._replace_bad:
            for other in chain(range(number + 1, len(self._images)), range(number)):
                yield other, None

    def _make(self, number: int, epoch: int, encoded: bytes | None) -> list[Tensor]:
        with stopwatch.lap("image"):
            if encoded is None:
                image = self._images.image(number)
            else:
                image = decode(
                    encoded, f"{self._images.key(number)} of epoch {epoch + 1} of {self._images.name}"
                )
        try:
            with stopwatch.lap("transform"):
                return self._prepare(image, number, epoch)
        except BadImageError as error:
            # The decoder names the file; what comes after it does not know it.
            raise BadImageError(f"{self._images.key(number)} in {self._images.name}: {error}") from error


class _Plan(Sampler[Request]):
    """The requests of the coming pass."""

    requests: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


def _as_it_is(batch: Any) -> Any:
    return batch


class _BehindParent(NamedTuple):
    """How a worker begins."""

    stand_back: bool

    def __call__(self, worker: int) -> None:  # noqa: ARG002 - torch passes the worker's number
        # A handler inherited from the parent would run its clean-up here; and whoever interrupts a training
        # wants the step that runs, and its checkpoint, finished first.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _let_one_pass)
        if self.stand_back:
            # A product on all cores waits for its slowest: a worker on one of them would hold up the others too.
            os.nice(NICENESS)


def _let_one_pass(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as Python calls a handler
    """Ignore a SIGTERM that went to the whole group; the next is the parent's own, to a worker that hangs."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
