"""Every data set that is known by name: what it is, where it comes from, and how to get it."""

from collections.abc import Mapping

from carp_eval import files
from carp_eval.data import imagenet_rows, plugged, transfer_rows
from carp_eval.data.row import HubOrigin, Row, TorchvisionOrigin

__all__ = ["TABLE", "HubOrigin", "Row", "TorchvisionOrigin", "how_to_get", "row_of"]

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
        torchvision=TorchvisionOrigin("CIFAR10", folder="cifar-10-batches-py", packed=True),
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
        torchvision=TorchvisionOrigin("CIFAR100", folder="cifar-100-python", packed=True),
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
        torchvision=TorchvisionOrigin("STL10", folder="stl10_binary", packed=True),
    ),
    "copydays": Row(
        title="holiday photographs, and copies of them: compressed, cropped, printed and scanned, painted over",
        splits={
            "original": 157,
            "strong": 229,
            **{f"jpegqual-{quality}": 157 for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)},
            **{f"crops-{removed}": 157 for removed in (10, 15, 20, 30, 40, 50, 60, 70, 80)},
        },
        num_classes=157,
        image_size=None,
        channels=3,
        licence="INRIA's copyright, provided as is",
        homepage="https://thoth.inrialpes.fr/~jegou/data.php.html",
        layout="copydays",
        native_only=True,
        how=(
            "unpack INRIA's archives into copydays/: copydays_original.tar.gz into original/, copydays_strong.tar.gz "
            "into strong/, the others as they are (jpegqual/3, crops/10, ...). INRIA's server is mostly down; Meta has "
            "the first two at https://dl.fbaipublicfiles.com/vissl/datasets/copydays_original.tar.gz and "
            "copydays_strong.tar.gz, which will do for mAP on strong",
        ),
        metric="map",
        transfer_splits=("original", "strong"),
    ),
    "roxford5k": Row(
        title="buildings of Oxford, 70 queries of 11 places (Revisited Oxford)",
        splits={"database": 4_993, "query": 70, "query-whole": 70},
        num_classes=0,
        image_size=None,
        channels=3,
        licence="by photograph (Flickr)",
        homepage="http://cmp.felk.cvut.cz/revisitop",
        layout="landmarks",
        native_only=True,
        how=(
            "unpack oxbuild_images into roxford5k/jpg, from https://www.robots.ox.ac.uk/~vgg/data/oxbuildings, "
            "and put gnd_roxford5k.pkl, from http://cmp.felk.cvut.cz/revisitop, beside jpg",
        ),
        metric="map",
        transfer_splits=("database", "query"),
    ),
    "rparis6k": Row(
        title="buildings of Paris, 70 queries of 11 places (Revisited Paris)",
        splits={"database": 6_322, "query": 70, "query-whole": 70},
        num_classes=0,
        image_size=None,
        channels=3,
        licence="by photograph (Flickr)",
        homepage="http://cmp.felk.cvut.cz/revisitop",
        layout="landmarks",
        native_only=True,
        how=(
            "unpack paris_1 and paris_2, from https://www.robots.ox.ac.uk/~vgg/data/parisbuildings, move all their "
            "images into one folder rparis6k/jpg, and put gnd_rparis6k.pkl, from http://cmp.felk.cvut.cz/revisitop, "
            "beside it",
        ),
        metric="map",
        transfer_splits=("database", "query"),
    ),
    "voc07": Row(
        title="photographs that show several of 20 kinds of things (PASCAL VOC 2007)",
        splits={"train": 2_501, "validation": 2_510, "trainval": 5_011, "test": 4_952},
        num_classes=20,
        image_size=None,
        channels=3,
        licence="by photograph (Flickr)",
        homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2007",
        layout="voc07",
        native_only=True,
        folders=("VOCdevkit",),
        how=(
            "unpack VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar, from "
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2007, beside it or into it: both go to VOCdevkit/VOC2007",
        ),
        metric="map",
        transfer_splits=("trainval", "test"),
        md5={
            "VOCtrainval_06-Nov-2007.tar": "c52e279531787c972589f7e41ab4ae64",
            "VOCtest_06-Nov-2007.tar": "b6e924de25625d8de591ea690078ad9f",
        },
    ),
    **imagenet_rows.ROWS,
    **transfer_rows.ROWS,
}


def row_of(spelling: str) -> Row | None:
    """Return what is known of a data set, spelled by its name or as `NAME:PATH`; None of any other.

    Raises:
        PluginError: If another package brings the data set, and does not work.
    """
    name = spelling.partition(":")[0]
    brought = None if name in TABLE else plugged.plugin(name)
    return TABLE.get(name) if brought is None else brought.row


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
        ways.append(f'python -c "{_torchvision_call(row.torchvision, str(home))}"')
    ways.extend(row.how)
    if not row.native_only:
        ways.append(f"put a copy (Parquet, or a folder for each split and class) into {home / name}")
    return "\n".join(f"  - {way}" for way in ways)


def _torchvision_call(origin: TorchvisionOrigin, root: str) -> str:
    """Write the line of Python that downloads a data set; in it no double quotes, for the shell."""
    start = f"from torchvision.datasets import {origin.kind} as D; "
    if origin.splits:
        return f"{start}[D('{root}', split=s, download=True) for s in {origin.splits}]"
    return f"{start}D('{root}', download=True)"
