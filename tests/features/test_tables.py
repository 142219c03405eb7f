"""Features in files for other tools: read back by those tools, and held to the rows that the network gives."""

import json
import resource
import signal
import tracemalloc

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from carp_eval.errors import BankError, StorageError, UsageError
from carp_eval.features import tables
from tests.features.scene import DIM, Noise, expected, take

TRAIN, TEST = Noise(), Noise(11, seed=1, bad=(3,))
TEST.split = "test"
TEST.labels = np.full(11, -1)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    from carp_eval.data.skipping import SkippedImages

    home = tmp_path_factory.mktemp("banks")
    return take(home), take(home, TEST, skip_bad=SkippedImages())


# What the files must say, from the images alone.
ROWS = [("train", TRAIN, number) for number in range(50)] + [
    ("test", TEST, number) for number in range(11) if number != 3
]
KEYS = [images.key(number) for _, images, number in ROWS]
SPLITS = [split for split, _, _ in ROWS]
LABELS = [int(images.labels[number]) for _, images, number in ROWS]
FEATURES = np.array([expected(images, number) for _, images, number in ROWS])


def check_about(said, both):
    assert said["model"] == "net"
    assert said["weights_sha256"] == both[0].fingerprint.weights_sha256
    assert said["preprocessing"]["resize"] == 8
    assert {split: bank["fingerprint"] for split, bank in said["banks"].items()} == {
        "train": both[0].fingerprint.sha256,
        "test": both[1].fingerprint.sha256,
    }
    assert said["banks"]["test"]["rows"] == 10
    assert said["banks"]["test"]["skipped"] == 1


def test_parquet_tells_every_row_of_every_split(both, tmp_path):
    assert tables.write(both, tmp_path / "f.parquet") == [tmp_path / "f.parquet"]
    file = pq.ParquetFile(tmp_path / "f.parquet")
    # A row group for each shard: nothing larger was held in memory.
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [8] * 6 + [2, 7, 3]
    table = file.read()
    assert table["key"].to_pylist() == KEYS
    assert table["split"].to_pylist() == SPLITS
    assert table["label"].to_pylist() == [None if label < 0 else label for label in LABELS]
    assert table["class_name"].to_pylist() == [None if label < 0 else "abc"[label] for label in LABELS]
    assert str(table.schema.field("features").type) == f"fixed_size_list<element: halffloat>[{DIM}]"
    features = np.array(table["features"].to_pylist())
    np.testing.assert_allclose(features, FEATURES, rtol=2e-3, atol=2e-3)
    check_about(json.loads(table.schema.metadata[b"carp_eval"]), both)


def test_the_library_datasets_reads_the_parquet(both, tmp_path):
    tables.write(both, tmp_path / "f.parquet")
    read = datasets.Dataset.from_parquet(str(tmp_path / "f.parquet"), cache_dir=str(tmp_path / "cache"))
    assert read["key"][:] == KEYS
    np.testing.assert_allclose(
        np.array(read.with_format("numpy")["features"][:]), FEATURES, atol=2e-3, rtol=2e-3
    )


def test_npy_is_mapped_and_its_rows_are_told_beside_it(both, tmp_path):
    assert tables.write(both, tmp_path / "f.npy") == [tmp_path / "f.npy", tmp_path / "f.rows.parquet"]
    features = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert isinstance(features, np.memmap)
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, FEATURES, rtol=2e-3, atol=2e-3)
    rows = pq.read_table(tmp_path / "f.rows.parquet")
    assert rows.column_names == ["key", "split", "label", "class_name"]
    assert rows["key"].to_pylist() == KEYS
    check_about(json.loads(rows.schema.metadata[b"carp_eval"]), both)


def test_npz_holds_all_of_it(both, tmp_path):
    tables.write(both, tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as read:
        assert set(read.files) == {"features", "labels", "keys", "splits", "class_names", "carp_eval"}
        np.testing.assert_allclose(read["features"], FEATURES, rtol=2e-3, atol=2e-3)
        assert read["labels"].tolist() == LABELS
        assert read["keys"].tolist() == KEYS
        assert read["splits"].tolist() == SPLITS
        assert read["class_names"].tolist() == ["" if label < 0 else "abc"[label] for label in LABELS]
        check_about(json.loads(str(read["carp_eval"])), both)


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".npz"])
def test_float32_stays_float32(tmp_path, suffix):
    bank = take(tmp_path / "banks", dtype="float32")
    path = tmp_path / f"f{suffix}"
    tables.write([bank], path)
    if suffix == ".parquet":
        read = np.stack(pq.read_table(path)["features"].to_numpy())
    else:
        loaded = np.load(path)
        read = loaded if suffix == ".npy" else loaded["features"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, bank.features().numpy())


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".npz"])
def test_memory_does_not_grow_with_the_rows(tmp_path, suffix):
    peaks = []
    for count in (100, 1600):
        bank = take(tmp_path / "banks", Noise(count), shard_rows=40, batch_size=20)
        tracemalloc.start()
        tables.write([bank], tmp_path / f"f{suffix}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 3 * peaks[0]


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".npz"])
def test_a_full_disk_leaves_what_was_there(both, tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    path.write_text("what was there")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(StorageError, match="larger than this system allows"):
            tables.write(both, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "what was there"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_written_is_said(both, tmp_path):
    with pytest.raises(UsageError, match=r"f.csv must end in one of .parquet, .npy, .npz"):
        tables.write(both, tmp_path / "f.csv")
    other = take(tmp_path / "banks", dtype="float32")
    with pytest.raises(BankError, match=r"stores float32 .* float16: extract both"):
        tables.write([other, both[1]], tmp_path / "f.npz")
