"""Textures, dishes, traffic signs, species and scenes, as their makers pack them and torchvision unpacks them."""

from functools import partial
from pathlib import Path
from typing import Any

from carp_eval.data.layouts.lists import (
    Listing,
    Lists,
    fields,
    first_there,
    in_folders,
    joined,
    json_of,
    whole_number,
)
from carp_eval.data.source import Source
from carp_eval.errors import DataError

SIGNS = tuple(f"{sign:05d}" for sign in range(43))


def read_textures(name: str, place: Path) -> Source | None:
    """Read DTD, the first of its ten partitions: `images/`, and lists in `labels/`."""
    root = first_there(place / "dtd", place)
    if not (root / "labels").is_dir():
        return None

    def listing(split: str) -> Listing:
        path = root / "labels" / f"{split}1.txt"
        rows = [line for (line,) in fields(path, 1, separator="\n")]
        kinds = [row.rpartition("/")[0] for row in rows]
        # Each partition shows every texture in each of its splits.
        names = tuple(sorted(set(kinds)))
        return Listing(
            [f"images/{row}" for row in rows], [names.index(kind) for kind in kinds], names, str(path)
        )

    train, validation, test = (partial(listing, split) for split in ("train", "val", "test"))
    splits = {"train": train, "validation": validation, "test": test, "trainval": joined(train, validation)}
    return Lists(name, root, splits)


def read_food(name: str, place: Path) -> Source | None:
    """Read Food-101: `images/`, and a list of each split, by class, in `meta/`."""
    lists = {split: place / "meta" / f"{split}.json" for split in ("train", "test")}
    if not any(path.exists() for path in lists.values()):
        return None

    def listing(split: str) -> Listing:
        by_class = json_of(lists[split])
        names = tuple(sorted(by_class))
        rows = [(label, path) for label, dish in enumerate(names) for path in by_class[dish]]
        paths = [f"images/{path}.jpg" for _, path in rows]
        return Listing(paths, [label for label, _ in rows], names, str(lists[split]))

    return Lists(name, place, {split: partial(listing, split) for split in lists})


def read_signs(name: str, place: Path) -> Source | None:
    """Read GTSRB: training images in class folders, test images in one with a list of their classes."""
    root = first_there(place / "GTSRB", place)
    train = "Training" if (root / "Training").is_dir() else "Final_Training/Images"
    test = "Final_Test/Images"
    if not ((root / train).is_dir() or (root / test).is_dir()):
        return None

    def training() -> Listing:
        strange = sorted(
            path.name for path in (root / train).iterdir() if path.is_dir() and path.name not in SIGNS
        )
        if strange:
            raise DataError(
                f"{root / train} has a folder {strange[0]}, but signs are numbered 00000 to {SIGNS[-1]}"
            )
        return in_folders(root, train, SIGNS)

    def testing() -> Listing:
        # The archive of the images has a list of the same name but for "test.", without classes.
        path = first_there(
            *(folder / "GT-final_test.csv" for folder in (place, root, root.parent, root / test))
        )
        header, *rows = fields(path, 8, separator=";") if path.exists() else [[""]]
        if not {"Filename", "ClassId"} <= set(header):
            raise DataError(
                f"{path} is not there or does not give Filename and ClassId of each test image: it is in "
                f"GTSRB_Final_Test_GT.zip"
            )
        file, label = header.index("Filename"), header.index("ClassId")
        labels = [whole_number(row[label], path) for row in rows]
        return Listing([f"{test}/{row[file]}" for row in rows], labels, SIGNS, str(path))

    splits = {"train": training} if (root / train).is_dir() else {}
    return Lists(name, root, splits | ({"test": testing} if (root / test).is_dir() else {}))


def read_species(name: str, place: Path) -> Source | None:
    """Read iNaturalist 2018: photographs in folders of categories, and a JSON file for each split."""
    lists = {
        split: first_there(place / f"{key}2018.json", place / "annotations" / f"{key}2018.json")
        for split, key in (("train", "train"), ("validation", "val"))
    }
    there = {split: path for split, path in lists.items() if path.exists()}
    if not there:
        if (place / "train_val2018").is_dir() or (place / "2018").is_dir():
            raise DataError(
                f"{place} has iNaturalist's photographs, but neither train2018.json nor val2018.json, which tell the "
                f"splits: get them from https://github.com/visipedia/inat_comp/tree/master/2018"
            )
        return None

    def listing(path: Path) -> Listing:
        content = json_of(path)
        try:
            categories: dict[Any, str] = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
            label = {category: number for number, category in enumerate(sorted(categories))}
            files: dict[Any, str] = {entry["id"]: entry["file_name"] for entry in content["images"]}
            rows = [
                (files[entry["image_id"]], label[entry["category_id"]]) for entry in content["annotations"]
            ]
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} does not list images, annotations and categories ({error!r})") from error
        # torchvision renames the folder that the archive unpacks to.
        renamed = not (place / "train_val2018").is_dir() and (place / "2018").is_dir()
        paths = [f"2018/{file.partition('/')[2]}" if renamed else file for file, _ in rows]
        names = tuple(categories[category] for category in sorted(categories))
        return Listing(paths, [number for _, number in rows], names, str(path))

    return Lists(name, place, {split: partial(listing, path) for split, path in there.items()})


def read_places(name: str, place: Path) -> Source | None:
    """Read Places205: photographs in folders of scenes, and a list for each split."""
    folder = first_there(place / "trainvalsplit_places205", place)
    lists = {
        split: folder / f"{key}_places205.csv" for split, key in (("train", "train"), ("validation", "val"))
    }
    there = {split: path for split, path in lists.items() if path.exists()}
    if not there:
        return None
    inside = first_there(
        place / "data/vision/torralba/deeplearning/images256", place / "images256", place / "images"
    ).relative_to(place)

    def rows(path: Path) -> list[tuple[str, int]]:
        return [(file, whole_number(label, path)) for file, label, *_ in fields(path, 2)]

    def listing(path: Path) -> Listing:
        own = rows(path)
        # The short list shows all scenes too; from it the names are the same for both splits.
        short = there.get("validation", path)
        named = {label: file.rpartition("/")[0] for file, label in (own if short == path else rows(short))}
        names = tuple(named.get(label, "") for label in range(max(named, default=-1) + 1))
        return Listing([f"{inside}/{file}" for file, _ in own], [label for _, label in own], names, str(path))

    return Lists(name, place, {split: partial(listing, path) for split, path in there.items()})
