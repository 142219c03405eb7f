import json
import shutil

import pytest
import safetensors.torch
import torch

from carp_eval.errors import BankError
from carp_eval.features import bank as banks
from carp_eval.features import known_banks
from carp_eval.features.bank import Bank
from tests.features import scene

WEIGHTS = scene.model().weights_sha256


@pytest.fixture
def came(tmp_path):
    """A bank as it comes from elsewhere: a folder of another name."""
    taken = scene.take(tmp_path / "theirs")
    shutil.copytree(taken.path, tmp_path / "came")
    return tmp_path / "came"


def rewrite(folder, change):
    record = json.loads((folder / banks.RECORD).read_text())
    change(record)
    (folder / banks.RECORD).write_text(json.dumps(record))


def test_the_banks_of_a_model_are_found_and_those_of_others_and_damaged_ones_are_not(tmp_path):
    bank = scene.take(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / banks.RECORD).write_text("{")
    assert [found.path for found in known_banks.of_weights(WEIGHTS, home=tmp_path)] == [bank.path]
    assert known_banks.of_weights("0" * 64, home=tmp_path) == []


def test_a_whole_bank_is_kept_where_an_extraction_finds_it(came, tmp_path):
    bank = known_banks.check(came, weights_sha256=WEIGHTS)
    place = known_banks.keep(bank, home=tmp_path / "ours")
    assert place == banks.folder(bank.fingerprint, tmp_path / "ours")
    network = scene.Net().eval()
    found = scene.take(tmp_path / "ours", network=network)
    assert network.seen == 0
    assert torch.equal(found.features(), Bank.open(came).features())
    assert sorted(path.name for path in place.parent.iterdir()) == [place.name, f"{place.name}.lock"]


def test_a_bank_that_is_there_is_not_replaced(came, tmp_path):
    place = known_banks.keep(Bank.open(came), home=tmp_path / "ours")
    (place / "mine").write_text("")
    assert known_banks.keep(Bank.open(came), home=tmp_path / "ours") == place
    assert (place / "mine").exists()


def test_a_bank_of_other_weights_is_refused(came):
    with pytest.raises(BankError, match="other weights"):
        known_banks.check(came, weights_sha256="0" * 64)


def test_a_changed_byte_is_found(came):
    shard = came / "features-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(BankError, match=r"features-00003.*SHA-256"):
        known_banks.check(came, weights_sha256=WEIGHTS)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "sub/features.safetensors"])
def test_a_record_that_names_files_outside_is_refused(came, name):
    rewrite(came, lambda record: record["shards"][0].update(file=name))
    with pytest.raises(BankError, match="outside itself"):
        known_banks.check(came, weights_sha256=WEIGHTS)


def forge(folder, **tensors):
    """Give the first shard other tensors, and a record that agrees with its bytes."""
    import hashlib

    shard = folder / "features-00000.safetensors"
    content = safetensors.torch.save(safetensors.torch.load(shard.read_bytes()) | tensors)
    shard.write_bytes(content)
    told = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder, lambda record: record["shards"][0].update(told))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"features": torch.full((8, scene.DIM), torch.nan)}, "no numbers"),
        ({"features": torch.zeros(8, scene.DIM + 1)}, "instead of"),
        ({"features": torch.zeros(7, scene.DIM)}, "instead of"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "not as many"),
    ],
)
def test_rows_that_are_none_are_refused_though_every_hash_is_right(came, tensors, words):
    forge(came, **tensors)
    assert Bank.open(came).verify() == []
    with pytest.raises(BankError, match=words):
        known_banks.check(came, weights_sha256=WEIGHTS)
