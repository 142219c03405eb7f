import json
import mmap
import shutil
from pathlib import Path

import pytest
import torch

from carp_eval import files
from carp_eval.errors import BankError
from carp_eval.features import bank as banks
from carp_eval.features import shards
from carp_eval.features.bank import Bank, Fingerprint
from carp_eval.features.shards import Rows, Span
from tests.features.scene import Net, Noise, take

FINGERPRINT = Fingerprint(
    weights_sha256="ab",
    branch="teacher",
    layer="pool",
    preprocessing={"resize": 8, "mean": [0.5]},
    manifest_sha256="cd",
    dtype="float16",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return take(tmp_path_factory.mktemp("bank"))


@pytest.fixture
def bank(made, tmp_path):
    return Bank.open(shutil.copytree(made.path, tmp_path / "copy"))


def test_a_bank_opened_again_is_the_same(made):
    again = Bank.open(made.path)
    assert again.record == made.record
    assert torch.equal(again.features(), torch.cat(made.shards()))
    assert [len(part) for part in again.shards()] == [8, 8, 8, 8, 8, 8, 2]
    assert again.class_names == ("a", "b", "c")
    assert again.verify() == []


def test_features_are_mapped_not_read(tmp_path):
    rows = Rows(torch.zeros(4096, 2048), torch.zeros(4096).long(), torch.arange(4096), ["key"] * 4096)
    record = shards.write(tmp_path, Span("features-00000.safetensors", 0, 4096), rows)
    (features,) = shards.read(tmp_path, record, "features")
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if record.file in line]
    assert len(mapped) >= 1
    begin, end = (int(part, 16) for part in mapped[0].split()[0].split("-"))
    assert begin <= features.data_ptr() < end
    assert end - begin >= 4096 * 2048 * 4 - mmap.PAGESIZE


@pytest.mark.parametrize("keys", [["", "a/ä.png", "名.jpg"], ["x\udcff.jpg", "\n", " "], ["", "", ""]])
def test_keys_come_back_as_they_went_in(tmp_path, keys):
    rows = Rows(torch.ones(3, 2), torch.tensor([0, -1, 5]), torch.tensor([4, 6, 9]), keys)
    record = shards.write(tmp_path, Span("features-00007.safetensors", 4, 10), rows)
    assert shards.read_keys(tmp_path, record) == keys
    features, labels, index = shards.read(tmp_path, record, "features", "labels", "index")
    assert (features.tolist(), labels.tolist(), index.tolist()) == ([[1, 1]] * 3, [0, -1, 5], [4, 6, 9])
    assert (record.rows, record.start, record.stop) == (3, 4, 10)


@pytest.mark.parametrize("place", ["first", "header", "features", "last"])
def test_every_flipped_bit_is_found(bank, place):
    shard = bank.path / "features-00002.safetensors"
    content = bytearray(shard.read_bytes())
    features = content.index(bank.shards()[2].numpy().tobytes())
    at = {"first": 0, "header": 30, "features": features, "last": -1}[place]
    content[at] ^= 1
    shard.write_bytes(content)
    (problem,) = bank.verify()
    assert "features-00002.safetensors" in problem
    assert "SHA-256" in problem


def test_a_shard_cut_short_or_gone_is_named_by_whoever_reads_it(bank):
    shard = bank.path / "features-00004.safetensors"
    shard.write_bytes(shard.read_bytes()[:-3])
    (problem,) = bank.verify()
    assert "features-00004.safetensors has" in problem
    with pytest.raises(BankError, match=r"features-00004\.safetensors has .* bytes instead of"):
        bank.features()
    shard.unlink()
    assert bank.verify() == ["features-00004.safetensors is missing"]
    with pytest.raises(BankError, match="is missing"):
        _ = bank.labels
    shard.symlink_to(shard)
    with pytest.raises(BankError, match=r"features-00004\.safetensors cannot be looked at: Too many levels"):
        bank.features()


def test_a_shard_cut_while_it_is_opened_is_told_as_any_other(bank, monkeypatch):
    shard = bank.path / bank.record.shards[1].file
    map_file = torch.UntypedStorage.from_file

    def cut_and_map(*args, **kwargs):
        cut = bank.path / "cut"
        cut.write_bytes(shard.read_bytes()[:-1])
        cut.replace(shard)
        return map_file(*args, **kwargs)

    # The header is read by then, from the whole file.
    monkeypatch.setattr(torch.UntypedStorage, "from_file", cut_and_map)
    with pytest.raises(BankError, match=r"features-00001\.safetensors cannot be read"):
        shards.read(bank.path, bank.record.shards[1], "features")


def test_a_header_that_makes_no_sense_is_a_clear_error(bank):
    shard = bank.path / "features-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[0] ^= 255
    shard.write_bytes(content)
    with pytest.raises(BankError, match=r"features-00000\.safetensors cannot be read"):
        bank.features()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"fingerprint": 3}', "\x00", '{"fingerprint": {"schema_version": 1}}']
)
def test_a_broken_record_is_a_clear_error(bank, content):
    (bank.path / "bank.json").write_text(content)
    with pytest.raises(BankError, match="damaged"):
        Bank.open(bank.path)


def test_a_bank_of_another_schema_is_refused(bank):
    path = bank.path / "bank.json"
    content = json.loads(path.read_text())
    content["fingerprint"]["schema_version"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(BankError, match="schema 99"):
        Bank.open(bank.path)


def test_what_is_no_bank_is_said(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BankError, match=r"no bank\.json"):
            Bank.open(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BankError, match="not a finished bank"):
        Bank.open(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights_sha256", "ac"),
        ("branch", "student"),
        ("layer", "projection"),
        ("preprocessing", {"resize": 9, "mean": [0.5]}),
        ("manifest_sha256", "ce"),
        ("dtype", "float32"),
        ("precision", "bf16"),
        ("views", 2),
        ("schema_version", 2),
    ],
)
def test_every_part_of_a_fingerprint_counts(name, value):
    other = FINGERPRINT.model_copy(update={name: value})
    assert other.sha256 != FINGERPRINT.sha256
    assert FINGERPRINT.differences(other) == [name]
    assert set(Fingerprint.model_fields) == {row[0] for row in PARTS}


PARTS = test_every_part_of_a_fingerprint_counts.pytestmark[0].args[1]


def test_a_fingerprint_does_not_depend_on_the_order_of_preprocessing():
    other = FINGERPRINT.model_copy(update={"preprocessing": {"mean": [0.5], "resize": 8}})
    assert other.sha256 == FINGERPRINT.sha256


def test_a_bank_lives_under_its_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    assert banks.folder(FINGERPRINT) == files.home() / "banks" / FINGERPRINT.sha256[:16]
    assert banks.folder(FINGERPRINT, tmp_path / "mine") == tmp_path / "mine" / FINGERPRINT.sha256[:16]


def test_banks_of_different_models_cannot_be_compared(tmp_path, made):
    network = Net().eval()
    with torch.no_grad():
        network.layers[0].bias += 1
    other = take(tmp_path, network=network)
    with pytest.raises(BankError, match="differ in weights_sha256"):
        made.check_comparable(other)
    with pytest.raises(BankError, match=r"a bank of net on noise .train., which differs"):
        made.check_fits(other.fingerprint)
    made.check_comparable(take(tmp_path, images=Noise(seed=3), dtype="float32"))


def test_a_description_is_plain_and_tells_what_counts(made):
    told = made.describe()
    assert json.loads(json.dumps(told)) == told
    assert (told["rows"], told["dim"], told["model"], told["dtype"]) == (50, 5, "net", "float16")
    assert told["bytes"] == sum(path.stat().st_size for path in made.path.glob("*.safetensors"))
