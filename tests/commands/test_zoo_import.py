import json
import sys

import pytest
import torch
from torchvision.models import resnet18

from carp_eval.cards import loading
from carp_eval.checkpoints.zoo import pulled, storing
from carp_eval.commands.app import main
from tests.checkpoints import formats, hostile


@pytest.fixture
def carp(tmp_path, monkeypatch, capsys):
    """A function that runs `carp zoo ...` and returns its exit code, and what it told on both streams."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["carp", "zoo", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        told = capsys.readouterr()
        return code or 0, told.out, told.err

    return run


def save(name, content):
    torch.save(content, name)
    return name


def moco():
    return formats.every()["MoCo v2"][0]


def test_a_file_is_recognised_imported_and_whole(carp, tmp_path):
    save("MoCo v2 (mine).pth.tar", moco())
    code, out, err = carp("import", "MoCo v2 (mine).pth.tar", "--licence", "MIT", "--native-size", "32")
    assert code == 0, err
    for expected in (
        "MoCo v2",
        "resnet18",
        "encoder_q.",
        "fc.* (1)",
        "queue (1)",
        "imported as moco-v2-mine",
    ):
        assert expected in out
    found = pulled.find("moco-v2-mine")
    assert torch.equal(storing.state(found)[1]["conv1.weight"], formats.trunk()["conv1.weight"])
    card = loading.checkpoint_card("moco-v2-mine")
    assert (card.architecture, card.licence, card.input.native_size, card.publishable) == (
        "resnet18",
        "MIT",
        32,
        True,
    )
    code, out, _ = carp("verify")
    assert code == 0
    assert "moco-v2-mine" in out
    assert "whole" in out
    code, _, err = carp("import", "MoCo v2 (mine).pth.tar")
    assert code == 2
    assert "--force" in err


def test_what_is_kept_can_be_read_by_machines(carp):
    save("two.pth", formats.every()["CARP, or DINO whole"][0])
    code, out, err = carp("import", "two.pth", "--json", "--mean", "0,0,0", "--std", "1,1,1")
    assert code == 0, err
    told = json.loads(out)
    assert told["name"] == "two"
    assert list(told["branches"]) == ["teacher", "student"]
    assert loading.checkpoint_card("two").input.std == (1, 1, 1)
    code, out, _ = carp("verify", "two", "--json")
    assert json.loads(out) == [{"name": "two", "branches": ["teacher", "student"], "state": "whole"}]


def test_a_dry_run_writes_nothing(carp, tmp_path):
    save("dry.pth", moco())
    code, out, _ = carp("import", "dry.pth", "--dry-run", "--branch", "teacher")
    assert code == 0
    assert "would become dry: 120 entries" in out
    code, out, _ = carp("import", "dry.pth", "--dry-run", "--json")
    assert json.loads(out)["entries"] == {"single": 120}
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_what_is_said_of_the_entries_counts(carp):
    save("two.pth", {"a": formats.under("x."), "b": formats.under("y.", formats.follower())})
    code, _, err = carp("import", "two.pth")
    assert code == 2
    assert "--wrapper b --strip y." in err
    code, _, err = carp("import", "two.pth", "--wrapper", "b", "--strip", "y.")
    assert code == 0, err
    state = storing.state(pulled.find("two"))[1]
    assert torch.equal(state["conv1.weight"], formats.follower()["conv1.weight"])
    for options, expected in (
        (["--strip", "z."], "no entries whose names begin with 'z.'"),
        (["--wrapper", "a", "--architecture", "resnet34"], "missing: layer1.2.conv1.weight"),
        (["--wrapper", "a", "--architecture", "resnet19"], "Did you mean resnet18"),
        (["--wrapper", "a", "--strip", "x.", "--drop", "layer1.*"], "missing: layer1.0.conv1.weight"),
        (["--wrapper", "a", "--branch", "student"], "has no branch 'student'"),
        (["--wrapper", "a", "--mean", "x"], "expected numbers"),
        (["--wrapper", "a", "--mean", "nan,0,0"], "finite numbers"),
        (["--wrapper", "a", "--std", "1,inf,1"], "finite numbers"),
        (["--wrapper", "a", "--licence", "my own"], "SPDX"),
        (["--wrapper", "a", "--as", "../up"], "a name has letters"),
    ):
        code, _, err = carp("import", "two.pth", "--dry-run", *options)
        assert code == 2, options
        assert expected in err, err


def test_a_name_of_the_zoo_is_read_by_its_card(carp, tmp_path):
    name = "moco-v2-resnet50-800ep"
    save("file.pth.tar", moco())
    # The card is of a ResNet-50.
    code, _, err = carp("import", "file.pth.tar", "--as", name)
    assert code == 2
    assert "does not fit" in err
    assert pulled.find(name) is None
    code, _, err = carp("import", "file.pth.tar", "--as", name, "--strip", "module.")
    assert code == 2
    assert "leave --strip out" in err
    (tmp_path / "file.pth.tar").rename(f"{name}.pth.tar")
    code, _, err = carp("import", f"{name}.pth.tar")
    assert code == 2
    assert f"--as {name}" in err


def test_a_file_of_another_hash_than_the_cards_is_not_read(carp, tmp_path, monkeypatch):
    import carp_eval.checkpoints.recognising.importing as importing

    real = loading.checkpoint_card("moco-v2-resnet50-800ep")
    weights = real.weights.model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(
        importing.loading, "checkpoint_card", lambda name: real.model_copy(update={"weights": weights})
    )
    save("file.pth", moco())
    code, _, err = carp("import", "file.pth", "--as", "moco-v2-resnet50-800ep")
    assert code == 2
    assert "is not the file of moco-v2-resnet50-800ep" in err


def test_a_hostile_file_is_refused_without_a_traceback(carp, tmp_path):
    canary = tmp_path / "ran"
    for name, content in hostile.pickles_that_call(canary).items():
        hostile.in_zip(tmp_path / "hostile.pth", content)
        code, out, err = carp("import", "hostile.pth")
        assert code == 2, name
        assert "was refused" in err
        assert "Traceback" not in err
        assert out == ""
        assert not canary.exists()
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_untrained_weights_need_a_word(carp):
    save("fresh.pth", resnet18(weights=None).state_dict())
    code, _, err = carp("import", "fresh.pth")
    assert code == 2
    assert "--allow-untrained" in err
    code, _, err = carp("import", "fresh.pth", "--allow-untrained")
    assert code == 0, err
    assert carp("verify")[0] == 0


def test_damage_is_told_with_exit_code_2(carp):
    save("good.pth", formats.trunk())
    save("bad.pth", formats.trunk())
    assert carp("import", "good.pth")[0] == carp("import", "bad.pth")[0] == 0
    path = pulled.folder("bad") / "single.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, out, err = carp("verify")
    assert code == 2
    assert "not those that were stored" in out
    assert "bad: damaged" in err
    assert carp("verify", "good")[0] == 0
    assert "carp pull moco-v2-resnet50-800ep" in carp("verify", "moco-v2-resnet50-800ep")[2]
    code, _, err = carp("verify", "goood")
    assert "Did you mean good?" in err


def test_names_come_from_what_tells_most(carp, tmp_path):
    (tmp_path / "My Run" / "checkpoints").mkdir(parents=True)
    state = formats.trunk()
    for path, name in (
        ("My Run/checkpoints/last.pt", "my-run"),
        ("My Run/checkpoint0399.pth", "my-run-checkpoint0399"),
        ("My Run/barlow.v2.pth.tar", "barlow.v2"),
    ):
        save(path, state)
        code, out, err = carp("import", path, "--dry-run", "--json")
        assert code == 0, err
        assert json.loads(out)["name"] == name


def test_with_nothing_here_there_is_nothing_to_verify(carp):
    code, out, _ = carp("verify")
    assert code == 0
    assert "carp zoo import FILE" in out
