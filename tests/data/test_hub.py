import hashlib
import struct

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Value
from datasets import Image as ImageFeature

from carp_eval.data import hub
from carp_eval.errors import BadImageError, DataError, StorageError
from tests.data.pictures import encoded, picture, write_folder, write_parquet

PETS = {"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])}


def pets(root, labels=(0, 1, 1), *, first=0, split="train", features=PETS, **columns):
    rows = {
        "image": [{"bytes": encoded(picture(first + row)), "path": None} for row in range(len(labels))],
        "label": list(labels),
    }
    return write_parquet(root / f"{split}.parquet", rows | columns, features)


@pytest.fixture
def opened(hub_cache):
    def open_(root, split="train", **options):
        return hub.load(f"hf:{root}", str(root), **options).open(split)

    return open_


def test_a_parquet_folder_is_read_row_by_row(tmp_path, opened):
    pets(tmp_path / "pets")
    pets(tmp_path / "pets", labels=[1], first=7, split="validation")
    train, test = opened(tmp_path / "pets"), opened(tmp_path / "pets", "test")
    assert (train.split, test.split) == ("train", "validation")
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 1]
    assert test.labels.tolist() == [1]
    for row in range(3):
        assert train.image(row).tobytes() == picture(row).tobytes()
    assert test.image(0).tobytes() == picture(7).tobytes()
    assert [train.key(row) for row in range(3)] == ["00000000", "00000001", "00000002"]


def test_labels_and_keys_and_the_manifest_need_no_decoding(tmp_path, opened):
    rows = [{"bytes": b"damaged", "path": None}] * 3
    pets(tmp_path / "pets", image=rows)
    images = opened(tmp_path / "pets")
    assert images.labels.tolist() == [0, 1, 1]
    assert images.key(2)
    assert images.manifest_sha256
    with pytest.raises(
        BadImageError, match=rf"row 1 of the split train of hf:{tmp_path}/pets is not an image"
    ):
        images.image(1)


def test_a_row_without_an_image_says_so(tmp_path, opened):
    pets(tmp_path / "pets", image=[{"bytes": encoded(picture()), "path": "a.png"}, None, None])
    images = opened(tmp_path / "pets")
    assert images.image(0).size == (8, 6)
    with pytest.raises(BadImageError, match=r"row 1 .* has no image in its column 'image'"):
        images.image(1)
    assert images.manifest_sha256


def test_the_manifest_tells_content_but_not_the_place(tmp_path, opened):
    manifests = set()
    for place, options in {
        "here": {},
        "there": {},
        "relabelled": {"labels": (0, 1, 0)},
        "redrawn": {"first": 1},
        "renamed": {"features": PETS | {"label": ClassLabel(names=["cat", "cow"])}},
    }.items():
        pets(tmp_path / place / "pets", **options)
        manifests.add(opened(tmp_path / place / "pets").manifest_sha256)
    assert len(manifests) == 4


def test_a_folder_of_image_files_is_read_too(tmp_path, opened):
    write_folder(tmp_path / "pets", {"train/cat": 1, "train/dog": 1, "test/cat": 1})
    images = opened(tmp_path / "pets")
    assert images.class_names == ("cat", "dog")
    assert [images.key(row) for row in range(2)] == ["train/cat/0.png", "train/dog/0.png"]
    assert images.image(1).tobytes() == picture(1).tobytes()
    before = images.manifest_sha256
    picture(99).save(tmp_path / "pets" / "train" / "cat" / "0.png")
    assert opened(tmp_path / "pets").manifest_sha256 != before


def test_images_without_labels(tmp_path, opened):
    write_folder(tmp_path / "pets", {"": 2})
    images = opened(tmp_path / "pets")
    assert images.labels.tolist() == [-1, -1]
    assert images.class_names == ()


@pytest.mark.parametrize(
    ("label", "values", "other", "classes", "numbers"),
    [
        (Value("int64"), [2, 0, None], [4, 4, 4], ("0", "1", "2", "3", "4"), [2, 0, -1]),
        # The classes of both splits count, so that a name has the same number in both.
        (Value("string"), ["dog", "cat", None], ["ant", "dog", "dog"], ("ant", "cat", "dog"), [2, 1, -1]),
        (ClassLabel(names=["cat", "dog"]), [1, -1, 0], [0, 0, 0], ("cat", "dog"), [1, -1, 0]),
    ],
)
def test_classes_may_be_numbers_or_names(tmp_path, opened, label, values, other, classes, numbers):
    features = PETS | {"label": label}
    pets(tmp_path / "pets", features=features, label=values)
    pets(tmp_path / "pets", features=features, label=other, split="test")
    images = opened(tmp_path / "pets")
    assert images.class_names == classes
    assert images.labels.tolist() == numbers
    assert images.labels.dtype == np.int64


def test_of_several_columns_the_user_says_which(tmp_path, opened):
    features = PETS | {
        "coarse": ClassLabel(names=["animal"]),
        "mask": ImageFeature(),
        "weight": Value("float32"),
    }
    masks = [{"bytes": encoded(picture(50 + row)), "path": None} for row in range(3)]
    pets(tmp_path / "pets", features=features, coarse=[0, 0, 0], mask=masks, weight=[0.5] * 3)
    folder = tmp_path / "pets"
    with pytest.raises(
        DataError, match=r"2 columns that could be the image: image, mask; say .*pets\?image=image"
    ):
        opened(folder)
    with pytest.raises(DataError, match="2 columns that could be the label: label, coarse"):
        opened(folder, image="mask")
    images = opened(folder, image="mask", label="coarse")
    assert images.class_names == ("animal",)
    assert images.image(2).tobytes() == picture(52).tobytes()
    with pytest.raises(
        DataError, match=r"has no column 'breed'; it has image \(Image\), label \(ClassLabel\)"
    ):
        opened(folder, image="mask", label="breed")
    with pytest.raises(DataError, match="'weight' is of type float32, not of images"):
        opened(folder, image="weight", label="label")
    with pytest.raises(DataError, match="'weight' is of type float32; classes are numbers or names"):
        opened(folder, image="mask", label="weight")
    # As the table's own columns are taken: a hint, where the copy has them.
    assert opened(folder, image="mask", label="coarse", strict=False).class_names == ("animal",)
    with pytest.raises(DataError, match="could be the image"):
        opened(folder, image="img", label="coarse", strict=False)


def test_what_is_not_a_data_set_of_images_is_an_error(tmp_path, opened):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no Parquet or image files"):
        opened(tmp_path / "empty")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "train.parquet").write_bytes(b"PAR1 is all that is left")
    with pytest.raises(DataError, match=r"damaged cannot be read: .*magic bytes"):
        opened(tmp_path / "damaged")
    write_parquet(tmp_path / "text" / "train.parquet", {"text": ["a"]}, {"text": Value("string")})
    with pytest.raises(DataError, match=r"has no column of type image, only text \(string\)"):
        opened(tmp_path / "text")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(DataError, match="scripts are no longer supported"):
        opened(tmp_path / "code")
    pets(tmp_path / "ids", features=PETS | {"label": Value("int64")}, label=[1, 2, 10**12])
    with pytest.raises(DataError, match="numbers up to 1000000000000; those are not classes"):
        opened(tmp_path / "ids")
    pets(tmp_path / "negative", features=PETS | {"label": Value("int64")}, label=[1, -2, 0])
    with pytest.raises(DataError, match="labels from -2 to 1 in its column 'label'"):
        opened(tmp_path / "negative")


def test_without_the_internet_the_message_says_what_else_to_do(hub_cache):
    with pytest.raises(DataError, match=r"Couldn't reach 'user/pets' on the Hub.*name a local folder"):
        hub.load("hf:user/pets", "user/pets")
    assert hub.load_cached("pets", "user/pets", image="image", label="label") is None


def test_what_was_downloaded_before_is_found_without_the_internet(tmp_path, hub_cache, opened):
    pets(tmp_path / "pets")
    expected = opened(tmp_path / "pets").manifest_sha256
    # The cache of a folder differs from that of a Hub id in its name alone.
    (hub_cache / "pets").rename(hub_cache / "user___pets")
    source = hub.load_cached("pets", "user/pets", image="img", label="label")
    assert source is not None
    assert source.open("train").manifest_sha256 == expected
    assert datasets.config.HF_HUB_OFFLINE is True


def test_a_disk_that_refuses_is_not_the_datas_fault(tmp_path, monkeypatch, hub_cache, opened):
    pets(tmp_path / "pets")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(StorageError, match="a part of this path is a file"):
        opened(tmp_path / "pets")


def test_a_split_is_sent_to_another_process_as_paths(tmp_path, opened):
    import pickle

    pets(
        tmp_path / "pets",
        image=[{"bytes": encoded(picture(row, size=(100, 100))), "path": None} for row in range(3)],
    )
    images = opened(tmp_path / "pets")
    before = images.image(2).tobytes(), images.manifest_sha256
    pickled = pickle.dumps(images)
    assert len(pickled) < 10_000 < 3 * len(before[0])
    sent = pickle.loads(pickled)
    assert (sent.image(2).tobytes(), sent.manifest_sha256) == before


def test_rows_of_a_table_too_large_for_memory_are_trained_on_in_stretches(tmp_path, opened, monkeypatch):
    pets(tmp_path / "pets", labels=[0, 1] * 5)
    assert opened(tmp_path / "pets").shard_sizes is None
    monkeypatch.setattr(hub, "LARGE", 100)
    monkeypatch.setattr(hub, "STRETCH", 4)
    assert opened(tmp_path / "pets").shard_sizes.tolist() == [4, 4, 2]


def test_the_manifest_is_that_of_the_content_row_by_row(tmp_path, opened):
    rows = [encoded(picture(row)) for row in range(4)]
    rows[2] = None
    images = [row and {"bytes": row, "path": None} for row in rows]
    pets(tmp_path / "pets", labels=[0, 1, 1, 0], image=images)
    told = hashlib.sha256(b"cat\0dog\0\0" + b"".join(b"%08d\0" % row for row in range(4)))
    told.update(struct.pack("<4q", 0, 1, 1, 0))
    told.update(struct.pack("<4q", *(-1 if row is None else len(row) for row in rows)))
    told.update(b"".join(row or b"" for row in rows))
    assert opened(tmp_path / "pets").manifest_sha256 == told.hexdigest()
