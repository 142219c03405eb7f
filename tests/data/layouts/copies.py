"""Small copies of data sets that cannot be downloaded here, laid out as their makers and torchvision do."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from tests.data.pictures import picture


def write_images(root: Path, paths: Iterable[str]) -> list[str]:
    """Write a picture of its own at each path, and return the paths."""
    paths = list(paths)
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(root / path)
    return paths


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_flowers(root: Path) -> Path:
    place = root / "flowers-102"
    write_images(place, [f"jpg/image_{number:05d}.jpg" for number in range(1, 9)])
    scipy.io.savemat(
        place / "imagelabels.mat", {"labels": np.array([[77, 3, 1, 102, 5, 3, 9, 77]], np.uint8)}
    )
    ids = {"trnid": [[5, 2, 8]], "valid": [[7, 1]], "tstid": [[6, 3, 4]]}
    scipy.io.savemat(place / "setid.mat", {key: np.array(rows, np.uint16) for key, rows in ids.items()})
    return place


def write_pets(root: Path) -> Path:
    place = root / "oxford-iiit-pet"
    rows = {
        "trainval": [
            "great_pyrenees_10 2 2 1",
            "Abyssinian_3 1 1 1",
            "great_pyrenees_2 2 2 1",
            "Bombay_7 3 1 2",
        ],
        "test": ["Bombay_1 3 1 2", "Abyssinian_1 1 1 1", "great_pyrenees_5 2 2 1"],
    }
    for split, lines in rows.items():
        write_lines(place / "annotations" / f"{split}.txt", lines)
        write_images(place, [f"images/{line.split()[0]}.jpg" for line in lines])
    return place


def write_aircraft(root: Path) -> Path:
    place = root / "fgvc-aircraft-2013b"
    write_lines(place / "data" / "variants.txt", ["707-320", "ATR 42", "F/A-18"])
    rows = {
        "train": ["0056978 F/A-18", "1025794 ATR 42"],
        "val": ["0481847 707-320"],
        "test": ["0062765 ATR 42"],
    }
    rows["trainval"] = rows["val"] + rows["train"]
    for split, lines in rows.items():
        write_lines(place / "data" / f"images_variant_{split}.txt", lines)
        write_images(place, [f"data/images/{line.split()[0]}.jpg" for line in lines])
    return place


def write_cars(root: Path) -> Path:
    place = root / "stanford_cars"
    (place / "devkit").mkdir(parents=True)
    names = np.array(
        ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"], dtype=object
    )
    scipy.io.savemat(place / "devkit" / "cars_meta.mat", {"class_names": names})
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    train = np.array([(1, 3, "00001.jpg"), (4, 1, "00002.jpg"), (2, 2, "00003.jpg")], dtype=kind)
    test = np.array([(1, 2, "00001.jpg"), (9, 3, "00002.jpg")], dtype=kind)
    scipy.io.savemat(place / "devkit" / "cars_train_annos.mat", {"annotations": train})
    scipy.io.savemat(place / "cars_test_annos_withlabels.mat", {"annotations": test})
    for split, count in (("train", 3), ("test", 2)):
        write_images(place, [f"cars_{split}/{number:05d}.jpg" for number in range(1, count + 1)])
    return place


def write_textures(root: Path) -> Path:
    place = root / "dtd" / "dtd"
    rows = {
        "train": ["zigzagged/zigzagged_2.jpg", "banded/banded_1.jpg"],
        "val": ["banded/banded_2.jpg", "zigzagged/zigzagged_3.jpg"],
        "test": ["zigzagged/zigzagged_1.jpg", "banded/banded_3.jpg", "banded/banded_4.jpg"],
    }
    for split, lines in rows.items():
        write_lines(place / "labels" / f"{split}1.txt", lines)
        # Another partition, which must not be taken.
        write_lines(place / "labels" / f"{split}2.txt", lines[:1])
        write_images(place / "images", lines)
    return root / "dtd"


def write_food(root: Path) -> Path:
    place = root / "food-101"
    rows = {
        "train": {"waffles": ["waffles/31", "waffles/4"], "apple_pie": ["apple_pie/1005649", "apple_pie/2"]},
        "test": {"waffles": ["waffles/5"], "apple_pie": ["apple_pie/6", "apple_pie/7"]},
    }
    (place / "meta").mkdir(parents=True)
    for split, dishes in rows.items():
        (place / "meta" / f"{split}.json").write_text(json.dumps(dishes))
        write_images(place / "images", [f"{path}.jpg" for paths in dishes.values() for path in paths])
    return place


SIGN_TEST = ("00000.ppm;53;54;6;5;48;49;16", "00001.ppm;42;45;5;5;36;40;1", "00002.ppm;48;52;6;6;43;47;38")


def write_signs(root: Path, *, train: str = "Training") -> Path:
    place = root / "gtsrb"
    write_images(
        place / "GTSRB" / train, [f"{sign:05d}/00000_{n:05d}.ppm" for sign in (42, 0, 7) for n in (0, 1)]
    )
    write_lines(place / "GTSRB" / train / "00000" / "GT-00000.csv", ["Filename;Width"])
    write_images(place / "GTSRB" / "Final_Test" / "Images", [row.split(";")[0] for row in SIGN_TEST])
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    write_lines(place / "GT-final_test.csv", [header, *SIGN_TEST])
    return place


def write_countries(root: Path) -> Path:
    place = root / "country211"
    for split, count in (("train", 3), ("valid", 1), ("test", 2)):
        write_images(
            place, [f"{split}/{land}/{number}.jpg" for land in ("XK", "AD", "ZW") for number in range(count)]
        )
    return place


SPECIES: Mapping[str, list[tuple[int, str, int]]] = {
    "train": [(11, "train_val2018/Aves/20/c.jpg", 20), (7, "train_val2018/Plantae/3/a.jpg", 3)],
    "val": [(5, "train_val2018/Plantae/3/b.jpg", 3), (6, "train_val2018/Insecta/100/d.jpg", 100)],
}


def write_species(root: Path) -> Path:
    place = root / "inat18"
    categories = [{"id": 100, "name": "Apis"}, {"id": 3, "name": "Acer"}, {"id": 20, "name": "Corvus"}]
    for split, rows in SPECIES.items():
        content = {
            "images": [{"id": image, "file_name": file} for image, file, _ in rows],
            # In another order than the images.
            "annotations": [{"image_id": image, "category_id": kind} for image, _, kind in reversed(rows)],
            "categories": categories,
        }
        write_images(place, [file for _, file, _ in rows])
        (place / f"{split}2018.json").write_text(json.dumps(content))
    return place


def write_places(root: Path) -> Path:
    place = root / "places205"
    rows = {
        "train": ["b/basement/gsun_1.jpg 2", "a/abbey/gsun_2.jpg 0", "a/apartment_building/outdoor/x.jpg 1"],
        "val": ["a/apartment_building/outdoor/y.jpg 1", "b/basement/gsun_3.jpg 2", "a/abbey/gsun_4.jpg 0"],
    }
    for split, lines in rows.items():
        write_lines(place / "trainvalsplit_places205" / f"{split}_places205.csv", lines)
        write_images(
            place / "data/vision/torralba/deeplearning/images256", [line.split()[0] for line in lines]
        )
    return place


def write_tiny(root: Path) -> Path:
    place = root / "tiny-imagenet-200"
    # As in the archive, the list of classes is in no order.
    write_lines(place / "wnids.txt", ["n02124075", "n01443537", "n09246464"])
    for wnid in ("n02124075", "n01443537", "n09246464"):
        write_images(place / "train" / wnid / "images", [f"{wnid}_{number}.JPEG" for number in range(2)])
        write_lines(place / "train" / wnid / f"{wnid}_boxes.txt", [f"{wnid}_0.JPEG 0 0 63 63"])
    rows = ["val_0.JPEG\tn09246464\t0\t32\t44\t62", "val_1.JPEG\tn01443537\t52\t55\t57\t59"]
    write_lines(place / "val" / "val_annotations.txt", rows)
    write_images(place / "val" / "images", [row.split("\t")[0] for row in rows])
    write_images(place / "test" / "images", ["test_0.JPEG"])
    return place


WNIDS = ("n01440764", "n01443537", "n01484850")


def write_imagenet(root: Path) -> Path:
    """Three classes; the validation images are numbered across them."""
    place = root / "imagenet"
    write_images(place / "train", [f"{wnid}/{wnid}_1.JPEG" for wnid in WNIDS])
    kept = {1: 2, 2: 0, 3: 0, 4: 1}
    write_images(
        place / "val", [f"{WNIDS[label]}/ILSVRC2012_val_{number:08d}.JPEG" for number, label in kept.items()]
    )
    return place


def downsampled(count: int, seed: int, side: int = 64) -> tuple[list[Image.Image], np.ndarray]:
    """Return pictures, and the rows in which the downsampled ImageNet has them: all red, then green, then blue."""
    pictures = [picture(seed + number, size=(side, side)) for number in range(count)]
    rows = [
        [image.getpixel((x, y))[channel] for channel in range(3) for y in range(side) for x in range(side)]
        for image in pictures
    ]
    return pictures, np.array(rows, dtype=np.uint8)
