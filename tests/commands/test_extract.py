"""`carp extract`: which splits, and files for other tools."""

import json
import logging
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


def test_a_profile_shows_the_stages_and_what_bounds(carp, digit_folder):
    code, out, err = carp("-d", f"folder:{digit_folder}", "--split", "train", "--batch-size=8", "--profile")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines() if line.strip()]
    stages = [line[0] for line in lines if line[0] in ("read", "decode", "transform", "forward", "write")]
    assert stages == ["read", "decode", "transform", "forward", "write"]
    assert " bound" in out
    assert "images/s, after a start of" in out
    # There is nothing to be measured in a bank that is there.
    _, out, _ = carp("-d", f"folder:{digit_folder}", "--split", "train", "--profile")
    assert "nothing was extracted" in out
    _, out, _ = carp("-d", f"folder:{digit_folder}", "--batch-size=4", "--json", "--profile")
    there, new = json.loads(out)
    assert there["profile"]["stages"] == []
    # The first batch starts the clock.
    assert new["profile"]["images"] == 36
    assert {stage["name"] for stage in new["profile"]["stages"]} == set(stages)
    assert new["profile"]["verdict"]


def test_views_make_banks_of_their_own(carp, digit_folder):
    banks = []
    for options in ([], ["--views=flip"], ["--scales=1,1.5"], ["--views=flip", "--scales", "1, 1.5"]):
        code, out, err = carp("-d", f"images:{digit_folder}", "--json", *options)
        assert code == 0, err
        banks.append(Bank.open(json.loads(out)[0]["bank"]))
    assert len({bank.path for bank in banks}) == 4
    assert [bank.fingerprint.views for bank in banks] == [1, 2, 2, 4]
    code, _, err = carp("-d", f"images:{digit_folder}", "--scales", "1;2")
    assert code == 2
    assert "--scales takes numbers with commas between" in err
    code, _, err = carp("-d", f"images:{digit_folder}", "--scales", "1,0")
    assert code == 2
    assert "positive" in err


def test_a_damaged_shard_is_said(carp, digit_folder, monkeypatch):
    # As outside of tests, where nobody takes warnings before they reach the terminal.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    _, out, _ = carp("-d", f"images:{digit_folder}", "--json")
    (shard,) = Bank.open(json.loads(out)[0]["bank"]).path.glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, err = carp("-d", f"images:{digit_folder}", "--json")
    assert code == 0
    assert "features-00000.safetensors has other bytes than were written" in "".join(err.splitlines())
    assert shard.read_bytes() == content


def test_only_the_first_of_several_processes_reports(carp, digit_folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, _ = carp("-d", f"images:{digit_folder}", "--json")
    assert (code, out) == (0, "")
