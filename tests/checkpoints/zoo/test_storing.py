import errno
import json
import multiprocessing
import tomllib
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision.models import resnet18

from carp_eval.cards import loading, writing
from carp_eval.cards.checkpoint import CheckpointCard, EntriesCard, InputCard, WeightsCard
from carp_eval.checkpoints import reading
from carp_eval.checkpoints.zoo import pulled, storing
from carp_eval.errors import CheckpointError, StorageError, UsageError
from carp_eval.models.model import weights_sha256
from tests.checkpoints import formats


def card(wrapper=(), branches=None, **more):
    how = branches or {"single": EntriesCard(wrapper=wrapper, drop=("fc.*",))}
    return CheckpointCard(
        version=1,
        summary="a small one",
        method="Test",
        architecture="resnet18",
        feature_dim=512,
        input=InputCard(native_size=32),
        weights=WeightsCard(by_hand="ask", branches=how),
        **more,
    )


PAIR = card(
    branches={
        branch: EntriesCard(wrapper=(branch,), strip=("module.", "backbone."), drop=("head.*",))
        for branch in ("teacher", "student")
    }
)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "zoo"


@pytest.fixture
def file(tmp_path) -> Path:
    torch.save(formats.network().state_dict(), tmp_path / "file.pth")
    return tmp_path / "file.pth"


def test_what_was_added_is_found_with_its_entries_to_the_bit(tmp_path, home):
    torch.save(formats.every()["CARP, or DINO whole"][0], tmp_path / "pair.pth")
    added = storing.add("my-pair", PAIR, tmp_path / "pair.pth", source="https://example.org/pair.pth")
    found = pulled.find("my-pair")
    assert found == added
    assert found.card == PAIR
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "card.toml", "origin.json", "student.safetensors", "teacher.safetensors",
    ]  # fmt: skip
    for branch, trunk in {
        "teacher": formats.follower(),
        "student": formats.trunk(),
        None: formats.follower(),
    }.items():
        name, state = storing.state(found, branch)
        assert name == (branch or "teacher")
        assert state.keys() == trunk.keys()
        assert all(torch.equal(state[entry], trunk[entry]) for entry in trunk)
    origin = json.loads((found.folder / "origin.json").read_text())
    assert origin["source"] == "https://example.org/pair.pth"
    assert origin["size"] == (tmp_path / "pair.pth").stat().st_size
    assert origin["branches"]["student"] == weights_sha256(formats.trunk())
    assert storing.verify(found) == []
    with pytest.raises(UsageError, match="teacher, student"):
        storing.state(found, "single")


def test_anyone_can_read_what_is_kept(home, file):
    added = storing.add("mine", card(), file, source="here")
    state = safetensors.torch.load_file(added.folder / "single.safetensors")
    assert torch.equal(formats.features(state), formats.features())


def test_a_card_that_comes_with_the_package_is_not_copied(home, file):
    shipped = "moco-v2-resnet50-800ep"
    added = storing.add(shipped, card(), file, source="here")
    assert not (added.folder / "card.toml").exists()
    assert pulled.find(shipped).card == loading.checkpoint_card(shipped)
    assert shipped not in loading.imported_cards()


def test_nothing_is_found_before_it_is_added_nor_under_a_path(home, file):
    assert pulled.find("mine") is None
    storing.add("mine", card(), file, source="here")
    for name in ("../zoo/mine", "/etc", "mine/", ".", "..", ""):
        assert pulled.find(name) is None
    assert pulled.everything() == ["mine"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("layer1.0.bn1.weight"), "missing: layer1.0.bn1.weight"),
        (lambda state: state.update(extra=torch.ones(2)), "unexpected: extra"),
        (lambda state: state.update({"bn1.bias": torch.ones(3)}), r"bn1.bias \(3,\) instead of \(64,\)"),
        (lambda state: state["bn1.bias"].fill_(float("nan")), "not finite"),
        (lambda state: state.pop("bn1.num_batches_tracked"), "missing: bn1.num_batches_tracked"),
    ],
)
def test_a_file_that_is_not_exactly_the_trunk_leaves_nothing(tmp_path, home, change, expected):
    state = {name: value.clone() for name, value in formats.trunk().items()}
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=expected):
        storing.add("bad", card(), tmp_path / "bad.pth", source="here")
    assert pulled.find("bad") is None
    assert not [path for path in home.rglob("*") if path.suffix in (".safetensors", ".toml", ".json")]


def test_a_full_disk_leaves_what_was_there(home, file, tmp_path, monkeypatch):
    before = storing.add("mine", card(), file, source="first")
    torch.save(formats.follower(), tmp_path / "other.pth")
    real = Path.write_bytes

    def full(self, content):
        real(self, content[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageError, match="the disk is full"):
            storing.add("mine", card(), tmp_path / "other.pth", source="second")
        with pytest.raises(StorageError, match="the disk is full"):
            storing.add("another", card(), file, source="second")
    assert pulled.find("mine") == before
    assert storing.verify(before) == []
    assert pulled.everything() == ["mine"]
    assert list((home / ".unfinished").iterdir()) == []
    assert storing.add("mine", card(), tmp_path / "other.pth", source="second").origin.source == "second"
    assert storing.verify(pulled.find("mine")) == []


def _add(file, number):
    storing.add("mine", card(), file, source=f"process {number}")


def test_processes_that_add_the_same_at_once_do_not_collide(home, file):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(file, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert storing.verify(pulled.find("mine")) == []
    assert list((home / ".unfinished").iterdir()) == []


def test_damage_is_found(home, file):
    added = storing.add("mine", card(), file, source="here")
    path = added.folder / "single.safetensors"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-5] ^= 1
    path.write_bytes(changed)
    assert any("not those that were stored" in problem for problem in storing.verify(added))
    path.write_bytes(whole[:-100])
    assert any("truncated" in problem for problem in storing.verify(added))
    with pytest.raises(CheckpointError, match="truncated"):
        storing.state(added)
    path.unlink()
    assert any("missing" in problem for problem in storing.verify(added))
    (added.folder / "origin.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        pulled.find("mine")


def test_a_card_that_tells_another_hash_is_found(home, file):
    storing.add("mine", card(), file, source="here")
    path = home / "mine" / "card.toml"
    path.write_text(path.read_text().replace('by_hand = "ask"', f'by_hand = "ask"\nsha256 = "{"0" * 64}"'))
    assert any("its card has 000000000000" in problem for problem in storing.verify(pulled.find("mine")))


def test_untrained_weights_are_kept_only_where_that_is_said(home, tmp_path):
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "fresh.pth")
    with pytest.raises(CheckpointError, match="never trained"):
        storing.add("fresh", card(), tmp_path / "fresh.pth", source="here")
    added = storing.add("fresh", card(), tmp_path / "fresh.pth", source="here", untrained=True)
    assert storing.verify(added) == []


def test_half_precision_is_kept_in_the_trunks_own(home, tmp_path):
    half = {
        name: value.half() if value.is_floating_point() else value for name, value in formats.trunk().items()
    }
    torch.save(half, tmp_path / "half.pth")
    _, state = storing.state(storing.add("half", card(), tmp_path / "half.pth", source="here"))
    assert all(torch.equal(state[name], half[name].to(state[name].dtype)) for name in half)
    assert state["conv1.weight"].dtype == torch.float32


def test_cards_written_are_cards_read():
    odd = 'quotes " and \\ and\nlines, ünïcode \U0001f600, tab\t, \x7f'
    told = PAIR.model_copy(update={"summary": odd, "licence": "MIT", "publishable": True, "epochs": 3})
    assert CheckpointCard.model_validate(tomllib.loads(writing.toml(told))) == told
    assert CheckpointCard.model_validate(tomllib.loads(writing.toml(card()))) == card()


def test_a_branch_that_is_read_without_a_word_keeps_its_heading():
    plain = card(branches={"single": EntriesCard()})
    assert CheckpointCard.model_validate(tomllib.loads(writing.toml(plain))) == plain


def test_a_member_of_an_archive_is_added(home, file, tmp_path):
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        archive.writestr("release/weights.pth.tar", file.read_bytes())
    told = card()
    told = told.model_copy(
        update={"weights": told.weights.model_copy(update={"member": "release/weights.pth.tar"})}
    )
    _, state = storing.state(storing.add("zipped", told, tmp_path / "release.zip", source="here"))
    assert torch.equal(formats.features(state), formats.features())
    assert reading.read(tmp_path / "release.zip").keys() == formats.network().state_dict().keys()
