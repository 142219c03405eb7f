"""Every data set that is known by name: what it is, where it comes from, and how to get it."""

from collections.abc import Mapping
from dataclasses import dataclass

from carp_eval import files


@dataclass(frozen=True)
class HubOrigin:
    """A data set on the Hugging Face Hub.

    Attributes:
        id: `USER/NAME`.
        image: The column of images.
        label: The column of classes.
        gated: Whether its terms must be accepted on the Hub first.
    """

    id: str
    image: str = "image"
    label: str = "label"
    gated: bool = False


@dataclass(frozen=True)
class TorchvisionOrigin:
    """A data set that torchvision downloads and reads.

    Attributes:
        kind: The class in `torchvision.datasets`.
        folder: The folder it makes in its root. Class folders are read from there; a packed format by torchvision.
        packed: Whether the images lie packed in few files, which are read into memory.
    """

    kind: str
    folder: str
    packed: bool = True


@dataclass(frozen=True)
class Row:
    """One data set.

    Attributes:
        title: What it shows.
        splits: Images in each split.
        num_classes: How many classes.
        image_size: Side of its square images, in pixels; None where sizes differ.
        channels: Colour channels.
        licence: Under which terms, as far as its makers say.
        homepage: Where its makers describe it.
        hub: Where the Hub has it.
        torchvision: How torchvision has it.
        embedded: Whether it comes with the package.
        environment: Variable that may name its folder, beside the places where all are looked for.
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


TABLE: Mapping[str, Row] = {
    "digits": Row(
        title="handwritten digits, each placed at random on a canvas",
        splits={"train": 5388, "test": 1800},
        num_classes=10,
        image_size=28,
        channels=1,
        licence="CC BY 4.0",
        homepage="https://archive.ics.uci.edu/dataset/80",
        embedded=True,
    ),
    "cifar10": Row(
        title="small photographs of animals and vehicles",
        splits={"train": 50_000, "test": 10_000},
        num_classes=10,
        image_size=32,
        channels=3,
        licence="none stated",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        hub=HubOrigin("uoft-cs/cifar10", image="img"),
        torchvision=TorchvisionOrigin("CIFAR10", folder="cifar-10-batches-py"),
    ),
    "cifar100": Row(
        title="small photographs of animals, plants and things",
        splits={"train": 50_000, "test": 10_000},
        num_classes=100,
        image_size=32,
        channels=3,
        licence="none stated",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        hub=HubOrigin("uoft-cs/cifar100", image="img", label="fine_label"),
        torchvision=TorchvisionOrigin("CIFAR100", folder="cifar-100-python"),
    ),
    "imagenet": Row(
        title="photographs of 1,000 kinds of things: ILSVRC 2012 (its test labels are not public)",
        splits={"train": 1_281_167, "validation": 50_000},
        num_classes=1000,
        image_size=None,
        channels=3,
        licence="non-commercial research, by the ImageNet terms of access",
        homepage="https://image-net.org",
        hub=HubOrigin("ILSVRC/imagenet-1k", gated=True),
        environment="IMAGENET",
    ),
    "imagenette": Row(
        title="photographs of ten easy ImageNet classes, full size",
        splits={"train": 9_469, "validation": 3_925},
        num_classes=10,
        image_size=None,
        channels=3,
        licence="the images by the ImageNet terms of access",
        homepage="https://github.com/fastai/imagenette",
        torchvision=TorchvisionOrigin("Imagenette", folder="imagenette2", packed=False),
    ),
    "stl10": Row(
        title="photographs of ten classes, and many of none",
        splits={"train": 5_000, "test": 8_000, "unlabeled": 100_000},
        num_classes=10,
        image_size=96,
        channels=3,
        licence="the images by the ImageNet terms of access",
        homepage="https://cs.stanford.edu/~acoates/stl10",
        hub=HubOrigin("tanganke/stl10"),
        torchvision=TorchvisionOrigin("STL10", folder="stl10_binary"),
    ),
}


def how_to_get(name: str) -> str:
    """Say in words and commands how a data set of the table comes onto this machine."""
    row = TABLE[name]
    ways: list[str] = []
    home = files.home() / "data"
    if row.embedded:
        return "it comes with the package"
    if row.environment:
        ways.append(
            f"set ${row.environment} to a folder that holds train/ and val/ with a folder for each class"
        )
    if row.hub:
        page = f"https://huggingface.co/datasets/{row.hub.id}"
        terms = f"accept its terms at {page}, hf auth login, then " if row.hub.gated else ""
        ways.append(f"{terms}hf download {row.hub.id} --repo-type dataset --local-dir {home / name}")
    if row.torchvision:
        ways.append(
            f'python -c "from torchvision.datasets import {row.torchvision.kind} as D; '
            f"D('{home}', download=True)\""
        )
    ways.append(f"put a copy (Parquet, or a folder for each split and class) into {home / name}")
    return "\n".join(f"  - {way}" for way in ways)
