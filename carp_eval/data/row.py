"""What the table of data sets says of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class HubOrigin:
    """A data set on the Hugging Face Hub.

    Attributes:
        id: `USER/NAME`.
        image: The column of images.
        label: The column of classes.
        gated: Whether its terms must be accepted on the Hub first.
        splits: What the Hub calls a split, where that is no alias of the table's name for it.
    """

    id: str
    image: str = "image"
    label: str = "label"
    gated: bool = False
    splits: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class TorchvisionOrigin:
    """A data set that torchvision downloads.

    Attributes:
        kind: The class in `torchvision.datasets`.
        folder: The folder it makes in its root.
        packed: Whether the images lie packed in few files, which torchvision reads into memory; else files of images
            are read from the folder.
        splits: The splits it must be asked for one by one; empty where it downloads all at once.
    """

    kind: str
    folder: str
    packed: bool = False
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One data set.

    Attributes:
        title: What it shows.
        splits: Images in each split.
        num_classes: How many classes; 0 where images have none.
        image_size: Side of its square images, in pixels; None where sizes differ.
        channels: Colour channels.
        licence: Under which terms, as far as its makers say.
        homepage: Where its makers describe it.
        hub: Where the Hub has it.
        torchvision: How torchvision has it.
        embedded: Whether it comes with the package.
        environment: Variable that may name its folder, beside the places where all are looked for.
        layout: The reader of its native layout, by its name in `layouts.known`; empty where class folders are it.
        native_only: Whether nothing but that layout tells all that is needed of it.
        folders: What its archives unpack to, looked for in its folder and beside it.
        how: Other ways to get it, in words: addresses, which links are dead.
        metric: What the field reports on it: the share of images that are right, the mean of that share over
            classes, or mean average precision.
        transfer_splits: The field's splits to learn from and to score when features are transferred to it. A set
            without the first is scored by what was learnt from that split of its `base`.
        base: The data set whose classes it has, and which its reader may need.
        md5: Hashes of its archives and lists by file name, as far as they are known.
    """

    title: str
    splits: Mapping[str, int]
    num_classes: int
    image_size: int | None
    channels: int
    licence: str
    homepage: str
    hub: HubOrigin | None = None
    torchvision: TorchvisionOrigin | None = None
    embedded: bool = False
    environment: str | None = None
    layout: str = ""
    native_only: bool = False
    folders: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    metric: Literal["top1", "mean_per_class", "map"] = "top1"
    transfer_splits: tuple[str, str] = ("train", "test")
    base: str | None = None
    md5: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class DatasetPlugin:
    """A data set that another package brings, under a name of its own.

    Attributes:
        row: What the table of data sets says of it.
        open: Where the function is that finds it, as `module:function`; imported when it is asked for. It takes the
            name and the folder that `--data-root` named (None if none was), and returns a `data.source.Source`.
        how: How it comes onto a machine, in words.
    """

    row: Row
    open: str
    how: str = "it comes with its package"
