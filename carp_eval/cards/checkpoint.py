"""Checkpoint cards: a released model, where its file is, how it is read, and what may be done with it."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from carp_eval.cards.frozen import Card, Frozen

Architecture = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet50w2", "resnet50w4", "resnet50w5"
]
# Most files hold one network; those of a student and a teacher hold two.
BranchName = Literal["single", "teacher", "student"]


class InputCard(Frozen):
    """What the model owns of preprocessing.

    Attributes:
        native_size: Side of the square images it was trained on, in pixels.
        mean: Subtracted from each channel of values in [0, 1]; zeros where the model takes [0, 1] as it is.
        std: Divided by, after that.
    """

    native_size: PositiveInt = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _fits(self) -> "InputCard":
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError("input.mean and input.std need a value for each of 1 or 3 channels")
        return self


class EntriesCard(Frozen):
    """Which entries of a file are the trunk's, and what torchvision calls them.

    Attributes:
        wrapper: The keys to descend through to the dictionary of weights, from the outside in.
        strip: Prefixes taken off the names that begin with them, one after another. Never from the middle of a name.
        drop: Patterns (`fc.*`) of the names, once stripped, that are not the trunk's. Whatever is neither the trunk's
            nor matched by one of them is an error.
    """

    wrapper: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class WeightsCard(Frozen):
    """The file.

    Attributes:
        sources: Where it may be had, in the order to try: `hf:USER/NAME[@REVISION]/PATH`, an `https:` address,
            `gdrive:FILE_ID`, `gdrive:FOLDER_ID/PATH`.
        member: The file inside, where the source is an archive.
        by_hand: What to do where no source answers, in words.
        sha256: Hash of the file (of the archive, where there is one); empty where nobody told it.
        size: Its bytes; None where nobody told.
        branches: How it is read, by branch; the first is the one that is judged if none is named.
    """

    sources: tuple[str, ...] = ()
    member: str = ""
    by_hand: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    size: PositiveInt | None = None
    branches: Annotated[dict[BranchName, EntriesCard], Field(min_length=1)]

    @model_validator(mode="after")
    def _can_be_had(self) -> "WeightsCard":
        if not self.sources and not self.by_hand:
            raise ValueError("weights needs sources, or by_hand: what to do to have the file")
        return self


class CheckpointCard(Card):
    """A model that someone released.

    Attributes:
        method: How it was trained, as the field spells it: `CARP`, `SwAV`.
        architecture: The trunk; `resnet50wN` has every channel N times as wide.
        feature_dim: Width of its features.
        epochs: Passes over its data; None where nobody told.
        dataset: What it was trained on, as the data table names it; what `-d` defaults to.
        input: What it owns of preprocessing.
        weights: The file.
        licence: SPDX identifier of the weights' licence; empty where nobody told one.
        licence_note: What a user must know of it.
        publishable: Whether that licence lets others publish the weights again; False where it is unknown.
        paper: Title, venue and year.
        page: Where the authors describe their weights.
        recipe: The recipe card it came from, where we have it.
        published_as: The names under which tables in `zoo/published/` have it, beside the card's own.
    """

    method: str
    architecture: Architecture = "resnet50"
    feature_dim: PositiveInt = 2048
    epochs: PositiveInt | None = None
    dataset: str = "imagenet"
    input: InputCard = InputCard()
    weights: WeightsCard
    licence: str = ""
    licence_note: str = ""
    publishable: bool = False
    paper: str = ""
    page: str = ""
    recipe: str = ""
    published_as: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agrees(self) -> "CheckpointCard":
        narrow = 512 if self.architecture in ("resnet18", "resnet34") else 2048
        width = narrow * int(self.architecture.partition("w")[2] or 1)
        if self.feature_dim != width:
            raise ValueError(f"feature_dim is {self.feature_dim}; a {self.architecture} gives {width}")
        if self.publishable and not self.licence:
            raise ValueError("publishable needs the licence that allows it")
        return self
