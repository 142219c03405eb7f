"""`carp extract`: which splits, and files for other tools."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from carp_eval.commands.app import main
from carp_eval.features.bank import Bank


@pytest.fixture
def carp(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["carp", "extract", "-m", "random:digits", "--workers=0", *map(str, arguments)]
        )
        with pytest.raises(SystemExit) as stopped:
            main()
        told = capsys.readouterr()
        return stopped.value.code or 0, told.out, told.err

    return run


def test_both_splits_go_to_one_file(carp, digit_folder, tmp_path):
    code, out, err = carp("-d", f"folder:{digit_folder}", "--to", "f.parquet", "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [(row["split"], row["rows"]) for row in rows] == [("train", 96), ("test", 40)]
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["split"].to_pylist() == ["train"] * 96 + ["test"] * 40
    features = np.array(table["features"].to_pylist(), dtype=np.float16)
    for row, part in zip(rows, (features[:96], features[96:])):
        np.testing.assert_array_equal(Bank.open(row["bank"]).features().numpy(), part)
    assert sorted(set(table["class_name"].to_pylist())) == ["0", "1", "2", "3"]
    code, out, _ = carp("-d", f"folder:{digit_folder}", "--split", "test", "--to", "deep/er/f.npz")
    assert code == 0
    assert "wrote deep/er/f.npz" in out
    assert np.load(tmp_path / "deep/er/f.npz")["labels"].shape == (40,)


def test_a_folder_of_any_images_has_one_split_and_no_classes(carp, digit_folder, tmp_path):
    code, out, err = carp("-d", f"images:{digit_folder}", "--to", "f.npy")
    assert code == 0, err
    assert "wrote f.npy\nwrote f.rows.parquet" in out
    assert np.load(tmp_path / "f.npy").shape == (136, 256)
    rows = pq.read_table(tmp_path / "f.rows.parquet")
    assert rows["label"].null_count == rows["class_name"].null_count == 136
    assert rows["key"].to_pylist()[0].startswith("test/0/")


def test_a_file_that_cannot_be_written_is_said_before_the_work(carp, digit_folder, tmp_path):
    code, _, err = carp("-d", f"folder:{digit_folder}", "--to", "f.csv")
    assert code == 2
    assert "f.csv must end in one of" in err
    (tmp_path / "file").write_text("")
    code, _, err = carp("-d", f"folder:{digit_folder}", "--to", "file/f.npz")
    assert code == 2
    assert "file" in err
    assert not (tmp_path / "home" / "banks").exists()
