"""One evaluation under way: the card, the model and the data that a protocol's runner works with."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from carp_eval import files
from carp_eval.cards import loading
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.data import opening
from carp_eval.data.images import Images
from carp_eval.data.preprocessing import Preprocessing, for_model
from carp_eval.data.skipping import SkippedImages
from carp_eval.evaluation.unfinished import Unfinished
from carp_eval.features.bank import Bank, Dtype
from carp_eval.features.extraction.forward import choose_device
from carp_eval.features.extraction.running import Progress, extract, fingerprint_of
from carp_eval.models.model import Model

# Makes what is to be told how much of a named piece of work is done, and of how much.
Bar = Callable[[str], Progress]

# What is done with scored images that are near-duplicates of images to learn from.
Leaks = Literal["count", "drop", "ignore"]


@dataclass(frozen=True)
class Settings:
    """What an evaluation needs beside card, model and data; nothing here may move a score, but for what a note tells.

    Attributes:
        data_root: Folder that holds named data sets.
        device: A torch device; None takes a GPU if there is one.
        batch_size: Images in a forward pass.
        num_workers: Processes that load images; None is from the cores.
        dtype: How banks store features.
        skip_bad: Whether unreadable images are counted and left out.
        bank_home: Folder that holds banks; None is `$CARP_HOME/banks`.
        progress: Makes a bar for work of a name; the bar is told how much is done, of how much.
        memory: Bytes that a protocol may take which searches or streams; None is a quarter of what there is.
    """

    data_root: Path | None = None
    device: str | None = None
    batch_size: int = 64
    num_workers: int | None = None
    dtype: Dtype = "float16"
    skip_bad: bool = False
    bank_home: Path | None = None
    progress: Bar | None = None
    memory: int | None = None


DEFAULTS = Settings()


def no_bar(what: str) -> Progress:  # noqa: ARG001 - as a bar is called
    """Return what is told of work and shows nothing."""
    return lambda _done, _total: None


class Job:
    """One evaluation under way. What its runner opens is noted, for the record of the result.

    Attributes:
        card: The protocol.
        model: The model, opened at the card's layer; nothing may change it.
        dataset: The data set, as it was spelled.
        settings: Where and how to run.
        seed: Of whatever the protocol draws.
        queries: The data set whose images are scored, where it is another one; None elsewhere.
        leaks: What is done with near-duplicates.
        device: Where networks run.
        judged: The rows that were scored, where those are not the whole bank of the queries.
        opened: The splits that were opened, by the name they were asked for.
        banks: The banks that were used, likewise.
        unread: Images that no bank tells of and that could not be read: the split's name and their key.
    """

    def __init__(
        self,
        card: ProtocolCard,
        model: Model,
        dataset: str,
        *,
        settings: Settings = DEFAULTS,
        seed: int = 0,
        queries: str | None = None,
        leaks: Leaks = "count",
    ) -> None:
        """Make ready; nothing is opened yet.

        Raises:
            UsageError: If the device cannot be used here.
        """
        self.device = choose_device(settings.device)
        self.card = card
        self.model = model
        self.dataset = dataset
        self.settings = settings
        self.seed = seed
        self.queries = queries
        self.leaks: Leaks = leaks
        self.judged: Bank | None = None
        self.opened: dict[str, Images] = {}
        self._whole: dict[str, Images] = {}
        self.banks: dict[str, Bank] = {}
        self.unread: set[tuple[str, str]] = set()
        self._unfinished: Unfinished | None = None

    def images(self, split: str) -> Images:
        """Open one split of the data set, once.

        Raises:
            DataError: If it is not there or is broken.
        """
        if split not in self.opened:
            images = opening.open_images(self.dataset, split, data_root=self.settings.data_root)
            self.opened[split] = self._whole[split] = images
        return self.opened[split]

    @property
    def query_name(self) -> str:
        """The name under which the scored images stand in the record."""
        split = self.card.query_split
        return split if self.queries is None else f"{self.queries} {split}"

    @property
    def query_images(self) -> Images:
        """The images that are scored.

        Raises:
            DataError: If they are not there or are broken.
        """
        if self.queries is None:
            return self.images(self.card.query_split)
        if self.query_name not in self.opened:
            root = self.settings.data_root
            images = opening.open_images(self.queries, self.card.query_split, data_root=root)
            self.opened[self.query_name] = images
        return self.opened[self.query_name]

    def bank(
        self,
        split: str,
        *,
        model: Model | None = None,
        preprocessing: Preprocessing | None = None,
        images: Images | None = None,
    ) -> Bank:
        """Return the bank of a split: the one that is there, or a new one. Every process must call this.

        Args:
            split: The split, or the name under which `images` stand in the record.
            model: The evaluation's model, wrapped to give another output; left out, as it is.
            preprocessing: How images become input; left out, as the card says.
            images: What is banked; left out, the split of the data set.

        Raises:
            CarpError: If the data are not there, or cannot be read or stored.
        """
        model, preprocessing = model or self.model, preprocessing or self.preprocessing
        if images is not None:
            self.opened[split] = images
        images = self.images(split)
        settings = self.settings
        there = self.banks.get(split)
        wanted = fingerprint_of(model, images, preprocessing, dtype=settings.dtype, precision="float32")
        if there is None or there.fingerprint != wanted:
            self.banks[split] = extract(
                model,
                images,
                preprocessing,
                dtype=settings.dtype,
                batch_size=settings.batch_size if preprocessing.gives_one_size else 1,
                num_workers=settings.num_workers,
                device=settings.device,
                bank_home=settings.bank_home,
                skip_bad=SkippedImages() if settings.skip_bad else None,
                progress=self.bar(f"features of {split}"),
            )
        return self.banks[split]

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How images become input: what the card and the model each own of it, joined."""
        return for_model(self.card.preprocessing, self.model.input)

    def bar(self, what: str) -> Progress:
        """Return what is to be told how much of something is done, and of how much; it shows once it is told."""
        return (self.settings.progress or no_bar)(what)

    def unfinished(self) -> Unfinished:
        """Return where a long run keeps what stopping it would lose.

        It belongs to the card, the model, the seed and the splits that are open when it is first asked for.
        """
        if self._unfinished is not None:
            return self._unfinished
        digest = hashlib.sha256(loading.fingerprint(self.card).encode())
        for part in (
            self.model.weights_sha256,
            # The same weights, said to be of another size or normalisation, give other features.
            repr(self.model.input),
            self.model.branch,
            self.model.layer,
            str(self.seed),
            self.leaks,
            self.queries or "",
        ):
            digest.update(f"\n{part}".encode())
        for split, sha256 in self.manifests.items():
            digest.update(f"\n{split} {sha256}".encode())
        self._unfinished = Unfinished(files.home() / "unfinished" / f"{digest.hexdigest()[:16]}.pt")
        return self._unfinished

    @property
    def manifests(self) -> dict[str, str]:
        """The hash of each split that was opened, by its name; of the whole split, where a part of it is banked."""
        opened = self.opened | self._whole
        return {split: opened[split].manifest_sha256 for split in sorted(opened)}
