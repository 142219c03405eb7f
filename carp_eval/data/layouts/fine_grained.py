"""Flowers, pets, aircraft and cars, as their makers pack them and torchvision unpacks them."""

from functools import partial
from pathlib import Path
from typing import Any

from carp_eval.data.layouts.lists import Listing, Lists, fields, first_there, joined, matlab, whole_number
from carp_eval.data.source import Source
from carp_eval.errors import DataError


def read_flowers(name: str, place: Path) -> Source | None:
    """Read Oxford's flowers: `jpg/`, and the classes and splits in two Matlab files."""
    labels, splits = place / "imagelabels.mat", place / "setid.mat"
    if not (labels.exists() or splits.exists()):
        return None

    def listing(key: str) -> Listing:
        # A second of import, which only this data set needs.
        from torchvision.datasets import Flowers102

        # Flowers and classes are counted from 1.
        classes = matlab(labels, "labels").astype(int) - 1
        numbers = matlab(splits, key).astype(int)
        if not all(1 <= number <= len(classes) for number in numbers):
            raise DataError(
                f"{splits} counts flowers from {numbers.min()} to {numbers.max()}, but {labels} has the classes of "
                f"{len(classes)}: one of the two is of something else; get both again"
            )
        paths = [f"jpg/image_{number:05d}.jpg" for number in numbers.tolist()]
        return Listing(paths, classes[numbers - 1].tolist(), tuple(Flowers102.classes), str(splits))

    # The makers' test set is the large one, though its key says nothing of that.
    read: dict[str, Any] = {
        split: partial(listing, key)
        for split, key in (("train", "trnid"), ("validation", "valid"), ("test", "tstid"))
    }
    return Lists(name, place, {**read, "trainval": joined(read["train"], read["validation"])})


def read_pets(name: str, place: Path) -> Source | None:
    """Read Oxford's pets: `images/`, and `annotations/` with a list for each split."""
    lists = {split: place / "annotations" / f"{split}.txt" for split in ("trainval", "test")}
    if not any(path.exists() for path in lists.values()):
        return None

    def rows(path: Path) -> list[tuple[str, int]]:
        return [(image, whole_number(label, path)) for image, label, *_ in fields(path, 2)]

    def listing(split: str) -> Listing:
        named: dict[int, str] = {}
        # Both lists, so that a class has a name even where one of them does not show it.
        for path in lists.values():
            for image, label in rows(path) if path.exists() else ():
                named[label] = image.rpartition("_")[0].replace("_", " ")
        own = rows(lists[split])
        names = tuple(named.get(label, "") for label in range(1, max(named, default=0) + 1))
        paths = [f"images/{image}.jpg" for image, _ in own]
        return Listing(paths, [label - 1 for _, label in own], names, str(lists[split]))

    return Lists(name, place, {split: partial(listing, split) for split in lists})


def read_aircraft(name: str, place: Path) -> Source | None:
    """Read FGVC-Aircraft at the level of variants: `data/images/`, and lists in `data/`."""
    root = place / "data"
    if not (root / "variants.txt").exists():
        return None

    def listing(split: str) -> Listing:
        path = root / f"images_variant_{split}.txt"
        variants = tuple(" ".join(line) for line in fields(root / "variants.txt", 1))
        number = {variant: label for label, variant in enumerate(variants)}
        rows = list(fields(path, 2, at_most=2))
        for _, variant in rows:
            if variant not in number:
                raise DataError(
                    f"{path} has the variant {variant!r}, which variants.txt has not; get both again"
                )
        paths = [f"data/images/{image}.jpg" for image, _ in rows]
        return Listing(paths, [number[variant] for _, variant in rows], variants, str(path))

    splits = {"train": "train", "validation": "val", "trainval": "trainval", "test": "test"}
    return Lists(name, place, {split: partial(listing, key) for split, key in splits.items()})


def read_cars(name: str, place: Path) -> Source | None:
    """Read Stanford's cars: `cars_train/`, `cars_test/` and the Matlab files of the development kit."""
    kit = place / "devkit"
    test_list = first_there(place / "cars_test_annos_withlabels.mat", kit / "cars_test_annos_withlabels.mat")
    if not (kit.is_dir() or test_list.exists()):
        return None

    def listing(split: str) -> Listing:
        path = kit / "cars_train_annos.mat" if split == "train" else test_list
        if split == "test" and not path.exists():
            raise DataError(
                f"{path} is not there, and only that file has the classes of the test images: "
                f"the development kit's own cars_test_annos.mat has none. Put it into {place}"
            )
        names = tuple(str(model) for model in matlab(kit / "cars_meta.mat", "class_names"))
        # Some copies have the folder twice, one in the other.
        inside = (
            f"cars_{split}/cars_{split}"
            if (place / f"cars_{split}/cars_{split}").is_dir()
            else f"cars_{split}"
        )
        rows = matlab(path, "annotations")
        if not {"fname", "class"} <= set(rows.dtype.names or ()):
            raise DataError(f"{path} does not say file name and class of each image; get it again")
        paths = [f"{inside}/{file}" for file in rows["fname"]]
        return Listing(paths, [int(label) - 1 for label in rows["class"]], names, str(path))

    return Lists(name, place, {split: partial(listing, split) for split in ("train", "test")})
