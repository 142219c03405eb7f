import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from carp_eval.checkpoints.downloads import transfer
from carp_eval.checkpoints.zoo import pulled
from carp_eval.commands.app import main
from tests.checkpoints.http_server import Server
from tests.checkpoints.zoo.test_pulling import FILE

CARD = """
version = 1
summary = "a model of the tests"
source = "the tests"
method = "SwAV"
architecture = "resnet18"
feature_dim = 512
{more}
input.native_size = 32
[weights]
sources = {sources}
by_hand = "Ask the authors."
[weights.branches.single]
wrapper = ["state_dict"]
strip = ["module."]
drop = ["fc.*"]
"""


@pytest.fixture
def web(monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    server = Server()
    yield server
    server.close()


def write_card(folder, *sources, name="model", more=""):
    path = folder / f"{name}.toml"
    path.write_text(CARD.format(sources=json.dumps(sources), more=more))
    return str(path)


@pytest.fixture
def carp(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["carp", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        told = capsys.readouterr()
        return stopped.value.code or 0, told.out, told.err

    return run


def test_pull_tells_what_came_and_how_to_use_it(web, tmp_path, carp):
    card = write_card(tmp_path, web.put("/f.pth", FILE))
    code, out, err = carp("pull", card)
    assert code == 0, err
    assert "told by nobody, so pinned in" in out
    assert "ask the authors before you publish" in out
    assert "carp eval knn -m model" in out
    assert pulled.find("model").origin.file_sha256 in out
    code, out, _ = carp("pull", card)
    assert "here already; nothing was fetched" in out
    assert len(web.seen) == 1
    code, out, _ = carp("pull", "model", "--json")
    assert json.loads(out)[0]["state"] == "here already; nothing was fetched"


def test_json_is_all_of_standard_output(web, tmp_path, carp):
    card = write_card(
        tmp_path, web.url("/gone.pth"), web.put("/f.pth", FILE), more='licence = "CC-BY-NC-4.0"'
    )
    code, out, err = carp("pull", card, "--json", "--keep-download")
    (record,) = json.loads(out)
    assert (code, record["name"], record["state"]) == (0, "model", "pulled")
    assert record["source"] == web.url("/f.pth")
    assert record["size"] == len(FILE)
    assert record["licence"] == "CC-BY-NC-4.0: not for commercial use"
    assert Path(record["download"]).read_bytes() == FILE
    assert "404" in err


def test_a_dry_run_asks_each_source_and_fetches_nothing(web, tmp_path, carp):
    card = write_card(tmp_path, web.url("/gone.pth"), web.put("/f.pth", FILE))
    code, out, _ = carp("pull", card, "--dry-run", "--json")
    assert code == 0
    (record,) = json.loads(out)
    answers = list(record["sources"].values())
    assert answers[0].startswith("no: it answered 404")
    assert answers[1] == f"yes, {len(FILE):,} bytes"
    assert not (tmp_path / "home").exists()
    code, out, _ = carp("pull", card, "--dry-run")
    assert "/gone.pth: no: it answered 404" in out


def test_what_cannot_be_fetched_is_told_with_what_to_do(web, tmp_path, carp):
    code, out, err = carp("pull", write_card(tmp_path, web.url("/gone.pth")))
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    for words in ("model could not be fetched", "404", "Ask the authors.", "carp zoo import FILE --as model"):
        assert words in err


def test_one_of_several_that_fails_does_not_stop_the_others(web, tmp_path, carp):
    bad = write_card(tmp_path, web.url("/gone.pth"), name="bad")
    good = write_card(tmp_path, web.put("/f.pth", FILE), name="good")
    code, out, err = carp("pull", bad, good, "--json")
    assert code == 2
    assert [record["name"] for record in json.loads(out)] == ["good"]
    assert "1 of 2 models were not pulled" in err
    assert pulled.find("good") is not None


def test_a_misspelled_name_is_told_before_anything_is_fetched(web, tmp_path, carp):
    good = write_card(tmp_path, web.put("/f.pth", FILE))
    code, _, err = carp("pull", good, "carp-resnet50-400ep-mx")
    assert code == 2
    assert "Did you mean carp-resnet50-400ep-mc" in err
    assert not web.seen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one.toml", "two.toml", "--source", "1"], "name one"),
        (["hf:user/name", "--repin"], "leave --source, --repin"),
        (["one.toml", "--source", "7"], "lists 1 sources"),
        (["carp-resnet50-400ep-mc.toml"], "give the card"),
        (["hf:user"], "USER/NAME"),
        (["nothing"], "no model named 'nothing'"),
    ],
)
def test_a_mistake_is_one_clear_message(web, tmp_path, carp, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two", "carp-resnet50-400ep-mc"):
        write_card(tmp_path, web.url("/f.pth"), name=name)
    code, out, err = carp("pull", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not web.seen


def part_size(tmp_path):
    return sum(path.stat().st_size for path in (tmp_path / "home/downloads/model").glob("*.part"))


def goes_on(web, tmp_path, carp, card):
    there = part_size(tmp_path)
    assert 0 < there < len(FILE)
    web.shelves["/f.pth"].delay = 0.0
    assert carp("pull", card)[0] == 0
    assert [seen.headers.get("range") for seen in web.seen] == [None, f"bytes={there}-"]
    assert web.seen[1].sent == len(FILE) - there


def test_a_pull_that_is_killed_goes_on_where_it_was(web, tmp_path, carp):
    card = write_card(tmp_path, web.put("/f.pth", FILE, delay=0.02, piece=200_000))
    process = subprocess.Popen([sys.executable, "-m", "carp_eval", "pull", card], stderr=subprocess.DEVNULL)
    while part_size(tmp_path) < len(FILE) // 8:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    goes_on(web, tmp_path, carp, card)


def test_so_does_one_that_ctrl_c_stops(web, tmp_path, carp):
    card = write_card(tmp_path, web.put("/f.pth", FILE, delay=0.02, piece=200_000))

    def stop():
        while part_size(tmp_path) < len(FILE) // 8:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    code, _, err = carp("pull", card)
    assert code == 130
    assert "the same command goes on from there" in err
    goes_on(web, tmp_path, carp, card)
