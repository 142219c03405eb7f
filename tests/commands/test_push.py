import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from carp_eval.checkpoints.opening import open_model
from carp_eval.checkpoints.publishing import hub as publishing_hub
from carp_eval.commands.app import main
from carp_eval.data.digits import open_split
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.subset import Subset
from carp_eval.features import known_banks
from carp_eval.features.extraction.running import extract
from carp_eval.report import pictures
from tests import hub_server
from tests.checkpoints.publishing import scene

LICENCE = ("--licence", "apache-2.0")
AVAILABLE = pictures.available


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)
    with hub_server.serving() as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """Tests go without plots, which take most of a push's time, as where matplotlib is not installed."""
    monkeypatch.setattr(pictures, "available", lambda: False)


@pytest.fixture
def run(tmp_path):
    """A trained run with a result."""
    folder = tmp_path / "runs" / "a-run"
    (folder / "checkpoints").mkdir(parents=True)
    scene.run(folder)
    model = open_model(str(folder))
    scene.saved(scene.result(model, dataset="digits", query_dataset="digits"), folder / "results")
    return folder


@pytest.fixture
def carp(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["carp", *map(str, arguments)])
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code or 0
        else:
            code = 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_pushed_model_comes_back_with_its_results_and_opens(hub, run, carp, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "available", AVAILABLE)
    code, out, _ = carp("push", "USER/NAME", "-m", run, *LICENCE, "--with-head", "--private")
    assert code == 0
    assert f"pushed to {hub.url}/USER/NAME, commit {hub.head('USER/NAME')[:12]}" in out
    assert hub.repositories["USER/NAME"].private
    pushed = hub.files("USER/NAME")
    assert {"model.safetensors", "config.json", "README.md", "recipe.json", "head.safetensors"} < set(pushed)
    assert ("pictures/scores.png" in pushed) == AVAILABLE()
    assert b"license: apache-2.0" in pushed["README.md"]

    monkeypatch.setenv("CARP_HOME", str(tmp_path / "elsewhere"))
    code, out, _ = carp("pull", "hf:USER/NAME", "--to", tmp_path / "got")
    assert code == 0
    assert "66.40" in out
    assert "these weights" in out
    got = {path.relative_to(tmp_path / "got").as_posix(): path for path in (tmp_path / "got").rglob("*.*")}
    assert {name: path.read_bytes() for name, path in got.items()} == pushed
    mine, theirs = open_model(str(run)), open_model("hf:USER/NAME")
    assert theirs.weights_sha256 == mine.weights_sha256
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(theirs.network(images), mine.network(images))


def test_a_second_push_makes_no_commit_and_one_with_less_takes_away(hub, run, carp):
    carp("push", "USER/NAME", "-m", run, *LICENCE, "--with-head")
    head = hub.head("USER/NAME")
    code, out, _ = carp("push", "USER/NAME", "-m", run, *LICENCE, "--with-head")
    assert code == 0
    assert "no commit was made" in out
    assert hub.head("USER/NAME") == head
    code, out, _ = carp("push", "USER/NAME", "-m", run, *LICENCE, "--json")
    told = json.loads(out)
    assert told["changed"]
    assert told["files"]["head.safetensors"] == "removed"
    assert "head.safetensors" not in hub.files("USER/NAME")


def test_the_last_run_is_pushed_where_none_is_named(hub, run, carp):
    assert carp("push", "USER/NAME", *LICENCE, "--revision", "trial")[0] == 0
    assert "model.safetensors" in hub.files("USER/NAME", "trial")
    assert hub.files("USER/NAME") == {}


def test_a_dry_run_lists_every_file_as_it_would_be_and_pushes_nothing(hub, run, carp):
    code, out, _ = carp("push", "USER/NAME", "-m", run, *LICENCE, "--dry-run", "--json")
    assert code == 0
    assert hub.repositories == {}
    planned = json.loads(out)
    assert {row["change"] for row in planned["files"]} == {"new"}
    carp("push", "USER/NAME", "-m", run, *LICENCE)
    pushed = {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name, content in hub.files("USER/NAME").items()
    }
    assert {row["file"]: (row["bytes"], row["sha256"]) for row in planned["files"]} == pushed
    code, out, _ = carp("push", "USER/NAME", "-m", run, *LICENCE, "--dry-run")
    assert "same" in out
    assert pushed["model.safetensors"][1][:12] in out


def test_a_dry_run_needs_neither_login_nor_hub(hub, run, carp, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.fault("GET", times=100, status=403)
    code, out, err = carp("push", "USER/NAME", "-m", run, *LICENCE, "--dry-run")
    assert code == 0
    assert "model.safetensors" in out
    assert "is not known: cannot look at USER/NAME: your token has no right" in err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(publishing_hub, "WAITS", ())
    code, out, err = carp("push", "USER/NAME", "-m", run, *LICENCE, "--dry-run")
    assert code == 0
    assert "model.safetensors" in out
    assert "is not known: the Hub cannot be reached" in err
    assert "same command again" not in err
    code, _, err = carp("push", "USER/NAME", "-m", run, *LICENCE)
    assert code == 2
    assert "hf auth login" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["USER/NAME"], "say with --licence"),
        (["USER/NAME", "-m", "random:digits", *LICENCE], "baseline"),
        (["USER/NAME", "-m", "pixels:digits", "--i-have-the-right"], "baseline"),
        (["NAME", *LICENCE], "USER/NAME"),
        (["USER/NAME", "--licence", "my own"], "SPDX"),
        (["USER/NAME", *LICENCE, "--with-bank"], "no bank"),
        (["USER/NAME", *LICENCE, "--results", "nowhere"], "no folder of results"),
        (["OTHER/NAME", *LICENCE], "no right"),
    ],
)
def test_what_cannot_be_pushed_is_told_with_exit_code_2(hub, run, carp, arguments, words):
    code, out, err = carp("push", *arguments)
    assert code == 2
    assert out == ""
    assert words in err
    assert hub.repositories == {}
    assert not list((Path("home") / "pushing").glob("*"))


def test_what_someone_edited_there_is_not_written_over(hub, run, carp):
    carp("push", "USER/NAME", "-m", run, *LICENCE)
    hub.add("USER/NAME", {"README.md": b"mine"})
    code, _, err = carp("push", "USER/NAME", "-m", run, *LICENCE)
    assert code == 2
    assert "--overwrite" in err
    assert hub.files("USER/NAME")["README.md"] == b"mine"
    assert carp("push", "USER/NAME", "-m", run, *LICENCE, "--overwrite")[0] == 0
    assert hub.files("USER/NAME")["README.md"] != b"mine"


def test_results_of_other_weights_do_not_go_along(hub, run, carp, tmp_path):
    model = open_model(str(run))
    scene.saved(scene.result(replace(model, weights_sha256="0" * 64)), tmp_path / "mixed")
    code, _, err = carp("push", "USER/NAME", "-m", run, *LICENCE, "--results", tmp_path / "mixed")
    assert code == 0
    assert "1 results" in err
    assert "shows no scores" in err
    assert not any(name.startswith("results/") for name in hub.files("USER/NAME"))


@pytest.fixture
def bank(hub, run):
    """A bank of some of the run's own data, where banks are."""
    model = open_model(str(run))
    prepared = Preprocessing(28, 28, "bilinear", model.input.mean, model.input.std)
    images = Subset(open_split("train"), np.arange(40), split="train")
    return extract(model, images, prepared, num_workers=0, device="cpu")


def test_a_bank_goes_along_and_is_used_only_if_asked_for(hub, run, bank, carp, tmp_path, monkeypatch):
    assert carp("push", "USER/NAME", "-m", run, *LICENCE, "--with-bank")[0] == 0
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "elsewhere"))
    code, out, _ = carp("pull", "hf:USER/NAME")
    assert code == 0
    assert "40 rows, every hash right" in out
    assert not (tmp_path / "elsewhere/banks").exists()
    assert carp("pull", "hf:USER/NAME", "--use-bank")[0] == 0
    [found] = known_banks.of_weights(open_model("hf:USER/NAME").weights_sha256)
    assert found.path.is_relative_to(tmp_path / "elsewhere/banks")
    assert torch.equal(found.features(), bank.features())


def test_a_bank_that_was_changed_on_the_hub_is_refused(hub, run, bank, carp):
    carp("push", "USER/NAME", "-m", run, *LICENCE, "--bank", bank.path)
    [shard] = [name for name in hub.files("USER/NAME") if name.startswith("bank/features")]
    content = bytearray(hub.files("USER/NAME")[shard])
    content[-1] ^= 1
    hub.add("USER/NAME", {shard: bytes(content)})
    code, _, err = carp("pull", "hf:USER/NAME", "--use-bank")
    assert code == 2
    assert "SHA-256" in err


def test_weights_that_were_changed_on_the_hub_are_refused(hub, run, carp):
    carp("push", "USER/NAME", "-m", run, *LICENCE)
    state = safetensors.torch.load(hub.files("USER/NAME")["model.safetensors"])
    hub.add("USER/NAME", {"model.safetensors": safetensors.torch.save({k: v + 1 for k, v in state.items()})})
    code, _, err = carp("pull", "hf:USER/NAME")
    assert code == 2
    assert "other weights" in err
