import dataclasses
import functools
import hashlib
import http.server
import io
import shutil
import tarfile
import threading

import pytest
from torchvision import datasets

from carp_eval.data import hub, opening, table
from carp_eval.data.opening import open_images, split_names
from carp_eval.errors import DataError, UnknownNameError, UsageError
from tests.data.pictures import encoded, picture, write_folder, write_parquet
from tests.data.test_hub import PETS, pets
from tests.data.test_pixels import write_cifar

SIZES = {"train": 3, "test": 1}


@pytest.fixture
def small_cifar(monkeypatch, hub_cache):
    """A table in which CIFAR-10 has three images to train on and one to test."""
    row = dataclasses.replace(table.TABLE["cifar10"], splits=SIZES, num_classes=2)
    monkeypatch.setitem(table.TABLE, "cifar10", row)


def write_copy(root):
    pets(root)
    pets(root, labels=[1], first=9, split="test")
    return root


def test_a_folder(tmp_path):
    write_folder(tmp_path / "pets", {"train/cat": 2, "val/cat": 1})
    images = open_images(f"folder:{tmp_path}/pets", "test")
    assert (images.name, images.split, len(images)) == (f"folder:{tmp_path}/pets", "val", 1)
    assert split_names(f"folder:{tmp_path}/pets") == ("train", "val")


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    write_folder(tmp_path / "pets", {"cat": 2})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_images("folder:~/pets", "train")) == 2


def test_a_local_folder_for_datasets(tmp_path, hub_cache):
    write_copy(tmp_path / "pets")
    images = open_images(f"hf:{tmp_path}/pets", "test")
    assert images.image(0).tobytes() == picture(9).tobytes()
    assert split_names(f"hf:{tmp_path}/pets") == ("train", "test")


def test_columns_are_named_after_a_question_mark(tmp_path, hub_cache):
    other = [{"bytes": encoded(picture(40 + row)), "path": None} for row in range(3)]
    pets(tmp_path / "pets", features=PETS | {"mask": PETS["image"]}, mask=other)
    images = open_images(f"hf:{tmp_path}/pets?image=mask&label=label", "train")
    assert images.image(1).tobytes() == picture(41).tobytes()
    with pytest.raises(
        UnknownNameError, match=r"no option of .* named 'colour'.*Known: config, image, label"
    ):
        open_images(f"hf:{tmp_path}/pets?colour=red", "train")


def test_a_folder_may_have_any_name(tmp_path, hub_cache):
    write_copy(tmp_path / "pets@home?label=none")
    assert len(open_images(f"hf:{tmp_path}/pets@home?label=none", "train")) == 3


def test_an_id_of_the_hub_keeps_its_revision(monkeypatch, hub_cache):
    asked = []

    def load(name, path, **options):
        asked.append((name, path, options))
        raise DataError("enough")

    monkeypatch.setattr(hub, "load", load)
    for address in ("user/pets", "user/pets@v2?label=breed&config=small"):
        with pytest.raises(DataError, match="enough"):
            open_images(f"hf:{address}", "train")
    assert asked == [
        ("hf:user/pets", "user/pets", {"revision": None}),
        (
            "hf:user/pets@v2?label=breed&config=small",
            "user/pets",
            {"revision": "v2", "label": "breed", "config": "small"},
        ),
    ]


@pytest.mark.parametrize(
    ("spelling", "kind", "message"),
    [
        ("cifar", UnknownNameError, "no data set named 'cifar'. Did you mean cifar10 or cifar100"),
        ("webdataset:x", UnknownNameError, "no kind of data set named 'webdataset:'. Did you mean wds:?"),
        ("foldr:x", UnknownNameError, "Did you mean folder:"),
        ("vco07:x", UnknownNameError, "Did you mean voc07:"),
        ("hf:", UsageError, "names nothing after the colon"),
        ("folder:", UsageError, "names nothing after the colon"),
        ("./pets", UsageError, "say folder:./pets for class folders, images:./pets .* hf:./pets for Parquet"),
        ("folder:/gone", DataError, "cannot list the folder /gone: No such file"),
        ("hf:/gone/pets", DataError, "expected a folder or a Hub id"),
        ("hf:pets", DataError, "pets is neither"),
        ("hf:a/b/c", DataError, "a/b/c is neither"),
    ],
)
def test_spellings_that_mean_nothing_are_errors(spelling, kind, message, carp_home):
    with pytest.raises(kind, match=message):
        open_images(spelling, "train")


@pytest.mark.usefixtures("small_cifar")
class TestNames:
    def test_a_copy_in_the_data_root_comes_first(self, tmp_path, carp_home):
        write_copy(tmp_path / "root" / "cifar10")
        write_folder(carp_home / "data" / "cifar10", {"train/a": 2, "train/b": 1, "test/a": 1})
        images = open_images("cifar10", "train", data_root=tmp_path / "root")
        assert (images.name, images.class_names) == ("cifar10", ("cat", "dog"))
        assert opening.local_copy("cifar10", data_root=tmp_path / "root") == tmp_path / "root" / "cifar10"
        assert open_images("cifar10", "train").class_names == ("a", "b")
        assert opening.local_copy("cifar10") == carp_home / "data" / "cifar10"
        # Found without a word, wherever it lies: the same content has the same hash.
        shutil.rmtree(carp_home / "data" / "cifar10")
        write_copy(carp_home / "data" / "cifar10")
        assert open_images("cifar10", "train").manifest_sha256 == images.manifest_sha256

    def test_as_torchvision_stores_it(self, tmp_path, monkeypatch):
        row = dataclasses.replace(table.TABLE["cifar10"], splits={"train": 5, "test": 2}, num_classes=3)
        monkeypatch.setitem(table.TABLE, "cifar10", row)
        write_cifar(tmp_path / "shared", monkeypatch, datasets.CIFAR10)
        images = open_images("cifar10", "train", data_root=tmp_path / "shared")
        assert images.labels.tolist() == [0, 1, 2, 0, 1]
        (tmp_path / "own").mkdir()
        (tmp_path / "shared").rename(tmp_path / "own" / "cifar10")
        assert len(open_images("cifar10", "test", data_root=tmp_path / "own")) == 2

    def test_in_the_cache_of_the_hub(self, tmp_path, hub_cache):
        write_copy(tmp_path / "cifar10")
        hub.load("x", str(tmp_path / "cifar10"))
        (hub_cache / "cifar10").rename(hub_cache / "uoft-cs___cifar10")
        images = open_images("cifar10", "test")
        assert (images.name, images.split, len(images)) == ("cifar10", "test", 1)

    def test_a_missing_one_says_how_to_get_it(self, carp_home):
        with pytest.raises(DataError, match="is not on this machine") as caught:
            open_images("cifar10", "train")
        assert str(carp_home / "data" / "cifar10") in str(caught.value)
        assert "hf download uoft-cs/cifar10" in str(caught.value)
        assert opening.local_copy("cifar10") is None

    def test_a_download_is_tried_when_asked_for(self):
        with pytest.raises(DataError, match="Couldn't reach 'uoft-cs/cifar10' on the Hub"):
            open_images("cifar10", "train", download=True)

    def test_an_incomplete_copy_is_not_taken_for_the_whole(self, carp_home):
        place = write_copy(carp_home / "data" / "cifar10")
        (place / "train.parquet").unlink()
        pets(place, labels=[0, 1])
        with pytest.raises(
            DataError, match=f"hf:{place} has 2 images of 2 classes in train, but cifar10 has 3 of 2"
        ):
            open_images("cifar10", "train")
        assert len(open_images("cifar10", "test")) == 1

    def test_a_split_that_is_not_there(self, carp_home):
        write_copy(carp_home / "data" / "cifar10")
        with pytest.raises(DataError, match="cifar10 has no split 'validation', only train, test"):
            open_images("cifar10", "validation")


def test_imagenet_is_a_folder_that_a_variable_names(tmp_path, monkeypatch, carp_home):
    row = dataclasses.replace(table.TABLE["imagenet"], splits={"train": 3, "validation": 2}, num_classes=2)
    monkeypatch.setitem(table.TABLE, "imagenet", row)
    layout = {"train/n01": 2, "train/n02": 1, "val/n01": 1, "val/n02": 1}
    monkeypatch.setenv("IMAGENET", str(write_folder(tmp_path / "ILSVRC", layout)))
    images = open_images("imagenet", "test")
    assert (images.split, images.labels.tolist()) == ("validation", [0, 1])
    assert images.class_names == ("n01", "n02")


def test_classes_are_chosen_by_the_table_where_a_copy_has_two_kinds(monkeypatch, carp_home, hub_cache):
    row = dataclasses.replace(table.TABLE["cifar100"], splits={"train": 3}, num_classes=2)
    monkeypatch.setitem(table.TABLE, "cifar100", row)
    features = {
        "img": PETS["image"],
        "fine_label": PETS["label"],
        "coarse_label": type(PETS["label"])(names=["animal"]),
    }
    rows = {
        "img": [{"bytes": encoded(picture(row)), "path": None} for row in range(3)],
        "fine_label": [1, 0, 1],
        "coarse_label": [0, 0, 0],
    }
    write_parquet(carp_home / "data" / "cifar100" / "train.parquet", rows, features)
    assert open_images("cifar100", "train").labels.tolist() == [1, 0, 1]


@pytest.fixture
def served(tmp_path):
    """A folder that this machine serves to itself."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_torchvision_downloads_what_the_hub_has_not(served, monkeypatch, carp_home):
    folder, address = served
    with tarfile.open(folder / "imagenette2.tgz", "w:gz") as archive:
        for seed, name in enumerate(("train/n01440764/0", "train/n01440764/1", "val/n01440764/0")):
            content = encoded(picture(seed), "JPEG")
            entry = tarfile.TarInfo(f"imagenette2/{name}.JPEG")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    md5 = hashlib.md5((folder / "imagenette2.tgz").read_bytes()).hexdigest()
    monkeypatch.setitem(datasets.Imagenette._ARCHIVES, "full", (f"{address}/imagenette2.tgz", md5))
    row = dataclasses.replace(table.TABLE["imagenette"], splits={"train": 2, "validation": 1}, num_classes=1)
    monkeypatch.setitem(table.TABLE, "imagenette", row)
    with pytest.raises(DataError, match="is not on this machine"):
        open_images("imagenette", "train")
    images = open_images("imagenette", "train", download=True)
    assert [images.key(index) for index in range(2)] == ["n01440764/0.JPEG", "n01440764/1.JPEG"]
    assert len(open_images("imagenette", "val")) == 1
