import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from carp_eval.data import pixels
from carp_eval.data.pixels import DecodedImages, PixelImages, TorchvisionSource, pixels_of
from carp_eval.errors import DataError
from tests.data.pictures import picture, write_folder

CHANCE = np.random.default_rng(0)
COLOURS = CHANCE.integers(0, 256, (4, 3, 5, 7), dtype=np.uint8)


def in_memory(content=COLOURS, labels=(1, 0, 2, 2), names=("a", "b", "c")):
    return PixelImages("x", "train", torch.from_numpy(content), np.array(labels), names)


def test_an_image_has_the_pixels_it_was_given():
    for channels, mode in ((3, "RGB"), (1, "L")):
        images = in_memory(COLOURS[:, :channels])
        image = images.image(2)
        assert image.mode == mode
        assert image.size == (7, 5)
        for y in range(5):
            for x in range(7):
                assert np.atleast_1d(image.getpixel((x, y))).tolist() == COLOURS[2, :channels, y, x].tolist()
    assert pixels_of(images) is images.pixels


def test_the_manifest_tells_pixels_labels_and_classes():
    other = COLOURS.copy()
    other[3, 2, 4, 6] ^= 1
    same, *others = (
        images.manifest_sha256
        for images in (
            in_memory(COLOURS.copy()),
            in_memory(other),
            in_memory(labels=(1, 0, 2, 1)),
            in_memory(names=("a", "b", "d")),
            in_memory(COLOURS.transpose(0, 1, 3, 2)),
        )
    )
    assert in_memory().manifest_sha256 == same
    assert len({same, *others}) == 5


def test_decoded_images_keep_their_keys_and_manifest(tmp_path):
    from carp_eval.data.folders import FolderSource

    original = FolderSource("x", write_folder(tmp_path, {"cat": 2})).open("train")
    decoded = DecodedImages(original, torch.zeros(2, 3, 6, 8, dtype=torch.uint8))
    assert decoded.key(1) == "cat/1.png"
    assert decoded.manifest_sha256 == original.manifest_sha256
    assert pixels_of(original) is None


def write_cifar(root, monkeypatch, kind):
    """Write batches as CIFAR's makers pack them, and have torchvision expect just those."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    fine = kind is datasets.CIFAR100

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(first, count):
        rows = np.stack([np.asarray(picture(first + row, size=(32, 32))) for row in range(count)])
        data = rows.transpose(0, 3, 1, 2).reshape(count, -1)
        labels = [(first + row) % 3 for row in range(count)]
        return {"data": data, "fine_labels" if fine else "labels": labels}

    monkeypatch.setattr(
        kind, "train_list", [["one", write("one", batch(0, 3))], ["two", write("two", batch(3, 2))]]
    )
    monkeypatch.setattr(kind, "test_list", [["three", write("three", batch(10, 2))]])
    md5 = write("names", {kind.meta["key"]: ["ant", "bee", "cow"]})
    monkeypatch.setattr(kind, "meta", {"filename": "names", "key": kind.meta["key"], "md5": md5})
    return root


@pytest.mark.parametrize("kind", [datasets.CIFAR10, datasets.CIFAR100])
def test_cifar_as_torchvision_stores_it(tmp_path, monkeypatch, kind):
    write_cifar(tmp_path, monkeypatch, kind)
    source = TorchvisionSource("cifar", kind.__name__, tmp_path, ("train", "test"))
    train, test = source.open("train"), source.open("test")
    assert (len(train), len(test)) == (5, 2)
    assert train.labels.tolist() == [0, 1, 2, 0, 1]
    assert test.labels.tolist() == [1, 2]
    assert train.class_names == ("ant", "bee", "cow")
    assert train.image(4).tobytes() == picture(4, size=(32, 32)).tobytes()
    assert test.image(1).tobytes() == picture(11, size=(32, 32)).tobytes()
    (tmp_path / kind.base_folder / "two").write_bytes(b"cut sh")
    with pytest.raises(DataError, match="incomplete or damaged"):
        source.open("train")


def test_stl10_as_torchvision_stores_it(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(content)
        return [name, hashlib.md5(content).hexdigest()]

    def packed(first, count):
        # Channel by channel, column by column: its makers wrote from Matlab.
        rows = [np.asarray(picture(first + row, size=(96, 96))).transpose(2, 1, 0) for row in range(count)]
        return np.stack(rows).tobytes()

    lists = {
        "train": [write("train_X.bin", packed(0, 2)), write("train_y.bin", bytes([2, 1]))],
        "test": [write("test_X.bin", packed(5, 1)), write("test_y.bin", bytes([1]))],
    }
    lists["train"].append(write("unlabeled_X.bin", packed(7, 3)))
    for split, files in lists.items():
        monkeypatch.setattr(datasets.STL10, f"{split}_list", files)
    write("class_names.txt", b"ant\nbee\n")
    write("fold_indices.txt", b"")
    source = TorchvisionSource("stl10", "STL10", tmp_path, ("train", "test", "unlabeled"))
    train, rest = source.open("train"), source.open("unlabeled")
    assert train.labels.tolist() == [1, 0]
    assert train.class_names == ("ant", "bee")
    assert train.image(1).tobytes() == picture(1, size=(96, 96)).tobytes()
    assert rest.labels.tolist() == [-1, -1, -1]
    assert rest.image(2).tobytes() == picture(9, size=(96, 96)).tobytes()


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.Imagenette._ARCHIVES, "full", (f"file://{tmp_path}/gone.tgz", None))
    with pytest.raises(DataError, match="torchvision could not download Imagenette"):
        pixels.download("Imagenette", tmp_path / "data")


def test_a_download_asks_for_splits_where_they_come_one_by_one(tmp_path, monkeypatch):
    asked = []

    class Signs:
        def __init__(self, root, split="train", download=False):
            asked.append((root, split, download))

    monkeypatch.setattr(datasets, "GTSRB", Signs)
    pixels.download("GTSRB", tmp_path, splits=("train", "test"))
    assert asked == [(tmp_path, "train", True), (tmp_path, "test", True)]
    pixels.download("GTSRB", tmp_path)
    assert asked[2:] == [(tmp_path, "train", True)]
