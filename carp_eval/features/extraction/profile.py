"""What bounds an extraction: the time of each stage, measured while it runs, and the bottleneck in words."""

import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch

from carp_eval.data.stopwatch import Laps, Spent

Item = TypeVar("Item")

LOADING = ("read", "decode", "transform")


class Stage(NamedTuple):
    """How fast one stage is.

    Attributes:
        name: `read`, `decode`, `transform`, `forward` or `write`.
        one: Images a second in one process, or on the device.
        all: Images a second in as many as there were, if nobody else needed a core.
        share: The part of the time that they were at it.
    """

    name: str
    one: float
    all: float
    share: float


@dataclass
class Profile:
    """Collects the times of an extraction; those of this process and of the workers that load for it.

    The clock starts when the first batch is through: starting workers, a GPU and a compiler is `starting`.

    Attributes:
        device: Where the network runs.
        workers: Processes that load; 0 where this one does so itself.
        images: Images that went through the network after the first batch.
        starting: Seconds up to the first features.
        seconds: Seconds from there to the end.
        waiting: Of these, seconds in which this process waited for images.
        stalled: Seconds in which it waited for a shard to be written.
        forward: Seconds of the network, and of bringing its input into form.
        writing: Seconds in which shards were hashed and written, beside the rest.
        written: Images in these shards.
        loaded: Images that workers have loaded.
        laps: What they took.
    """

    device: str = "cpu"
    workers: int = 0
    images: int = 0
    starting: float = 0.0
    seconds: float = 0.0
    waiting: float = 0.0
    stalled: float = 0.0
    forward: float = 0.0
    writing: float = 0.0
    written: int = 0
    loaded: int = 0
    laps: Laps = field(default_factory=dict[str, Spent])
    _started: float | None = None
    _first: bool = True

    def loading(self, laps: Laps, images: int) -> None:
        """Add what a worker says of one batch."""
        self.loaded += images
        for stage, spent in laps.items():
            self.laps[stage] = self.laps.get(stage, Spent()).plus(spent)

    def batches(self, loaded: Iterable[Item]) -> Iterator[Item]:
        """Pass batches on, and count the seconds in which they were waited for."""
        started = time.perf_counter()
        self._first, rest = True, iter(loaded)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(rest)
            except StopIteration:
                break
            if not self._first:
                self.waiting += time.perf_counter() - asked
            yield batch
            if self._first:
                self._first = False
                self._started = time.perf_counter()
                self.starting += self._started - started
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
            self._started = None

    @property
    def is_starting(self) -> bool:
        """Whether the batch that was passed on last is the first, which may compile or warm up and is not timed."""
        return self._first

    def ran(self, images: int, seconds: float) -> None:
        """Add a batch that went through the network."""
        self.images += images
        self.forward += seconds

    @contextmanager
    def stalling(self) -> Generator[None]:
        """Count the block as waiting for the disk."""
        started = time.perf_counter()
        yield
        self.stalled += time.perf_counter() - started

    @contextmanager
    def write(self, images: int) -> Generator[None]:
        """Count the block as writing a shard."""
        started = time.perf_counter()
        yield
        self.writing += time.perf_counter() - started
        self.written += images

    @property
    def rate(self) -> float:
        """Images a second from the first features to the last."""
        return _over(self.images, self.seconds)

    def stages(self) -> list[Stage]:
        """List the stages that were seen, in the order in which an image meets them."""
        found: list[Stage] = []
        processes = max(1, self.workers)
        for name in LOADING:
            spent = self.laps.get(name)
            if spent is not None and self.loaded:
                # Waiting for a disk is what reading takes; waiting for a core is no stage's own.
                seconds = max(spent.wall - spent.queued, spent.core) if name == "read" else spent.core
                one = _over(self.loaded, seconds)
                found.append(Stage(name, one, one * processes, self._part(seconds, self.loaded, processes)))
        if self.images:
            rate = _over(self.images, self.forward)
            found.append(Stage("forward", rate, rate, self._part(self.forward, self.images, 1)))
        if self.written:
            rate = _over(self.written, self.writing)
            found.append(Stage("write", rate, rate, self._part(self.writing, self.written, 1)))
        return found

    def bottleneck(self) -> str:
        """Name the stage that the others wait for, or `overhead`; empty where too little was extracted to tell."""
        if not self.images:
            return ""
        other = self.seconds - self.waiting - self.forward - self.stalled
        parts = {
            "loading": self.waiting,
            "forward": self.forward,
            "write": self.stalled,
            "overhead": other,
        }
        found = max(parts, key=lambda name: parts[name])
        if found != "loading":
            return found
        loading = [stage for stage in self.stages() if stage.name in LOADING]
        # Pixels in memory are neither read nor decoded.
        return max(loading, key=lambda stage: stage.share).name if loading else "overhead"

    def verdict(self) -> str:
        """Say what bounds the extraction, and what would make it faster."""
        found = self.bottleneck()
        if not found:
            return (
                "too few images went through the network to tell what bounds it: one batch starts the clock"
            )
        cores = _cores()
        share = self.forward / self.seconds
        waited = self.waiting / self.seconds
        more = (
            f"raise --workers, which is {self.workers} on {cores} cores"
            if self.workers < cores
            else f"use more cores: all {cores} load already"
        )
        said = {
            "write": f"Writing bounds: {self.stalled / self.seconds:.0%} of the time went into waiting for the disk. "
            "Put the bank on a faster one (--output, or CARP_HOME)",
            "read": f"Reading bounds: the network waited for images {waited:.0%} of the time. Put the data set on a "
            f"faster disk, or {more}",
            "decode": f"Decoding bounds: the network waited for images {waited:.0%} of the time. To be faster, {more}",
            "transform": f"Resizing and cropping bound: the network waited for images {waited:.0%} of the time. To be "
            f"faster, {more}",
            "forward": f"The forward pass bounds: it took {share:.0%} of the time. ",
            "overhead": f"Nothing bounds alone: the network ran {share:.0%} of the time and waited {waited:.0%}, the "
            "rest went into moving rows. Larger batches (--batch-size) make that less",
        }[found]
        if found == "forward":
            said += (
                "This is as fast as this processor goes; a GPU would be faster"
                if self.device == "cpu"
                else "This is as fast as this device goes with these settings; --bf16 and --compile make it faster"
            )
        return said + "."

    def describe(self) -> dict[str, Any]:
        """Say all of it in plain values."""
        return {
            "images": self.images,
            "images_per_second": self.rate,
            "starting_seconds": self.starting,
            "seconds": self.seconds,
            "waiting_for_images_seconds": self.waiting,
            "waiting_for_disk_seconds": self.stalled,
            "device": self.device,
            "workers": self.workers,
            "stages": [stage._asdict() for stage in self.stages()],
            "bottleneck": self.bottleneck(),
            "verdict": self.verdict(),
        }

    def _part(self, seconds: float, of: int, processes: int) -> float:
        """Return the part of the time that a stage needs for the images of that time."""
        return _over(seconds / of * self.images, self.seconds * processes) if of else 0.0


class DeviceTimer:
    """Times what is put into a device's queue, or runs at once on a processor."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._started = self._ended = 0.0
        if device.type == "cuda":
            self._events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def start(self) -> None:
        """Start."""
        if self._events is None:
            self._started = time.perf_counter()
        else:
            self._events[0].record(torch.cuda.current_stream(self._device))

    def stop(self) -> None:
        """Stop; on a GPU, when it gets there."""
        if self._events is None:
            self._ended = time.perf_counter()
        else:
            self._events[1].record(torch.cuda.current_stream(self._device))

    def seconds(self) -> float:
        """Return the time between; of a GPU, once it is through."""
        if self._events is None:
            return self._ended - self._started
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000


def _over(count: float | int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
