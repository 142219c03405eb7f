"""Images that come in a stream and are not held: dealt to a training's steps as they come, exactly once an epoch."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from carp_eval import distributed
from carp_eval.data import order
from carp_eval.data.decoding import decode
from carp_eval.data.images import Images
from carp_eval.errors import DataError, UsageError

# Of images that no step takes because files are of several sizes: with more, each process reads every file instead.
_MOST_LEFT = 0.05


class Part(NamedTuple):
    """Which files of a stream are read.

    Attributes:
        rank: This process.
        world_size: How many processes share the files.
    """

    rank: int
    world_size: int


@runtime_checkable
class Rows(Protocol):
    """Where a stream comes from."""

    def __call__(self, *, seed: int | None, epoch: int, part: Part) -> Generator[bytes]:
        """Yield encoded images, empty where a row has none.

        Args:
            seed: Of the order; None for the order in which they are stored.
            epoch: From 0; each has an order of its own.
            part: Which files.
        """
        ...


class Dealt(NamedTuple):
    """One process's images of a step.

    Attributes:
        numbers: Each image's place in the epoch's stream, which tells it from all others of the epoch.
        encoded: The images.
    """

    numbers: list[int]
    encoded: list[bytes]


class StreamedImages(Images):
    """One split as a stream: it can be trained on, and not much more, for nothing is known of an image before it comes.

    Its length is the number of images that every epoch surely has for the steps, with as many processes as there are;
    labels are not known, and an image's number is its place in the stream of an epoch, so that it has another in the
    next.

    Attributes:
        num_rows: Images of the split.
        by_file: Whether processes share the files; otherwise each reads all of them and takes its share of the rows.
    """

    def __init__(
        self, name: str, split: str, rows: Rows, *, num_rows: int, file_rows: Sequence[int] = ()
    ) -> None:
        """Decide how processes share the stream.

        Args:
            name: The data set as the user spells it.
            split: The split's name.
            rows: Where it comes from.
            num_rows: Images of the split.
            file_rows: Images of each file, where that is known and the files can be read apart.
        """
        self.name = name
        self.split = split
        self.num_rows = num_rows
        self.class_names = ()
        self._rows = rows
        self._num_files = len(file_rows)
        self._world_size = distributed.world_size()
        each, over = divmod(len(file_rows), self._world_size)
        # Files are dealt by chance: the smallest may all be one process's.
        smallest = sum(sorted(file_rows)[:each]) * self._world_size
        self.by_file = (
            self._world_size > 1 and each > 0 and not over and smallest >= (1 - _MOST_LEFT) * num_rows
        )
        # Without files of its own, a process has the same number of rows as each other, or one more.
        length = smallest if self.by_file else num_rows // self._world_size * self._world_size
        self.labels = np.full(length, -1, dtype=np.int64)

    def describe(self) -> str:
        """Say what of the stream is read by whom, and what that costs."""
        how = "read from its start to its end in each epoch"
        if self._world_size > 1:
            how = f"shared file by file by {self._world_size} processes"
            if not self.by_file:
                how = f"read whole by each of {self._world_size} processes, which share its rows"
        left = self.num_rows - len(self)
        rest = f"; {left:,} of {self.num_rows:,} images are left out by chance in each epoch" if left else ""
        return (
            f"{self.name} is {how}{rest}; a training that goes on in mid-epoch first reads past the images that it has "
            "seen; no online k-NN, because labels are not known before they are read"
        )

    def deal(
        self, *, seed: int, epoch: int, batch_size: int, rank: int, world_size: int, start_step: int = 0
    ) -> Iterator[Dealt]:
        """Yield this process's images of each step of an epoch, as `order.epoch_steps` does of data at hand.

        Args:
            seed: Of the whole training.
            epoch: From 0.
            batch_size: Images in a step, over all processes.
            rank: This process.
            world_size: How many there are.
            start_step: How many steps of this epoch were taken before; what they took is read again and let go.

        Raises:
            DataError: If the stream ends before it should, or cannot be read.
            UsageError: If there are more or fewer processes than when it was opened.
        """
        if world_size != self._world_size:
            raise UsageError(
                f"{self.name} was opened for {self._world_size} processes and is dealt to {world_size}"
            )
        steps = order.num_steps(len(self), batch_size)
        own = batch_size // world_size
        part = Part(rank, world_size) if self.by_file else Part(0, 1)
        with closing(self._rows(seed=seed, epoch=epoch, part=part)) as rows:
            mine = rows if self.by_file else islice(rows, rank, None, world_size)
            mine = islice(mine, start_step * own, None)
            for step in range(start_step, steps):
                encoded = list(islice(mine, own))
                if len(encoded) < own:
                    came = (step * own + len(encoded)) * world_size
                    raise DataError(
                        f"the stream of {self.name} ({self.split}) ended after about {came:,} images, and "
                        f"{self.num_rows:,} were expected: say how many there are, as in hf-stream:...?rows={came}"
                    )
                first = step * own
                yield Dealt([place * world_size + rank for place in range(first, first + own)], encoded)

    def image(self, index: int) -> Image.Image:
        """Read the stream, as it is stored, up to one image, and decode that."""
        with closing(self._rows(seed=None, epoch=0, part=Part(0, 1))) as rows:
            encoded = next(islice(rows, index, None), b"")
        return decode(encoded, self.key(index))

    def key(self, index: int) -> str:
        """Return the image's place in the stream."""
        return f"{index:08d}"

    def hash_manifest(self) -> str:
        """Refuse: a hash that tells nothing of the content would let banks of other images pass for these.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"{self.name} is a stream, which can be trained on and nothing else; for features say hf: in place of "
            "hf-stream:, or download it"
        )
