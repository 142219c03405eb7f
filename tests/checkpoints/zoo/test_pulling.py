import hashlib
import io
import random
import threading

import pytest
import torch
from torchvision.models import resnet18

from carp_eval.cards import loading
from carp_eval.cards.checkpoint import CheckpointCard
from carp_eval.checkpoints.downloads import pins, transfer
from carp_eval.checkpoints.zoo import pulled, pulling, storing
from carp_eval.errors import CheckpointError, UsageError
from tests.checkpoints.http_server import Server


def released(seed=0):
    """The bytes of a file as SwAV's training writes it, and the trunk in it."""
    torch.manual_seed(seed)
    network = resnet18().train()
    with torch.no_grad():
        network(torch.randn(4, 3, 32, 32))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    file = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, file)
    return file.getvalue(), network.state_dict()


FILE, TRUNK = released()
OTHER, _ = released(seed=1)


def card(*sources, **weights):
    content = {
        "version": 1,
        "summary": "a model of the tests",
        "source": "the tests",
        "method": "SwAV",
        "architecture": "resnet18",
        "feature_dim": 512,
        "input": {"native_size": 32},
        "weights": {
            "sources": list(sources),
            "branches": {"single": {"wrapper": ["state_dict"], "strip": ["module."], "drop": ["fc.*"]}},
            **weights,
        },
    }
    return loading.check(CheckpointCard, content, where="the test's card")


@pytest.fixture
def web(monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    server = Server()
    yield server
    server.close()


def downloads(tmp_path):
    return sorted(
        str(path.relative_to(tmp_path / "downloads")) for path in (tmp_path / "downloads").rglob("*")
    )


def test_a_model_is_fetched_read_and_stored_and_the_download_let_go(web, tmp_path):
    url = web.put("/f.pth", FILE)
    outcome = pulling.pull("model", card(url))
    _, state = storing.state(pulled.find("model"))
    expected = {name: value for name, value in TRUNK.items() if not name.startswith("fc.")}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    sha256 = hashlib.sha256(FILE).hexdigest()
    assert (outcome.pulled.origin.source, outcome.pulled.origin.file_sha256) == (url, sha256)
    assert outcome.pin == "new"
    assert pins.find(url).sha256 == sha256
    assert outcome.download is None
    assert downloads(tmp_path) == ["model.lock"]


def test_what_is_here_is_not_fetched_again_unless_asked(web):
    url = web.put("/f.pth", FILE)
    pulling.pull("model", card(url))
    again = pulling.pull("model", card(url))
    assert again.fetched is None
    assert again.pulled.origin.source == url
    assert len(web.seen) == 1
    forced = pulling.pull("model", card(url), force=True)
    assert (forced.pin, len(web.seen)) == ("same", 2)


def test_the_download_is_kept_if_asked(web):
    outcome = pulling.pull("model", card(web.put("/f.pth", FILE)), keep_download=True)
    assert outcome.download.read_bytes() == FILE


def test_a_hash_that_the_card_tells_needs_no_pin(web, tmp_path):
    url = web.put("/f.pth", FILE)
    outcome = pulling.pull("model", card(url, sha256=hashlib.sha256(FILE).hexdigest(), size=len(FILE)))
    assert outcome.pin == "needless"
    assert not (tmp_path / "pins.json").exists()


def test_another_file_from_the_same_source_needs_repin(web):
    url = web.put("/f.pth", FILE)
    pulling.pull("model", card(url))
    web.put("/f.pth", OTHER, etag='"v2"')
    with pytest.raises(CheckpointError, match="--repin"):
        pulling.pull("model", card(url), force=True)
    # The model that was there is still there.
    assert pulled.find("model").origin.file_sha256 == hashlib.sha256(FILE).hexdigest()
    assert pulling.pull("model", card(url), repin=True).pin == "changed"
    assert pins.find(url).sha256 == hashlib.sha256(OTHER).hexdigest()
    assert pulled.find("model").origin.file_sha256 == hashlib.sha256(OTHER).hexdigest()


def test_a_file_that_is_no_such_model_is_kept_and_not_pinned(web, tmp_path):
    url = web.put("/f.pth", random.Random(0).randbytes(1000))
    with pytest.raises(CheckpointError, match=r"The file is kept at .*f\.pth.*carp zoo import.*--force"):
        pulling.pull("model", card(url))
    assert (tmp_path / "downloads" / "model" / "f.pth").is_file()
    assert pins.find(url) is None
    assert pulled.find("model") is None
    web.put("/f.pth", FILE)
    assert pulling.pull("model", card(url), force=True).pin == "new"


def test_a_source_can_be_chosen(web):
    first, second = web.put("/1.pth", FILE), web.put("/2.pth", FILE)
    mine = web.put("/mine.pth", FILE)
    known = card(first, second)
    assert pulling.chosen(known, None) == (first, second)
    assert pulling.pull("a", known, source="2").fetched.source == second
    assert pulling.pull("b", known, source=mine).fetched.source == mine
    assert not web.gets("/1.pth")
    for number in ("0", "3"):
        with pytest.raises(UsageError, match="lists 2 sources"):
            pulling.pull("c", known, source=number)
    with pytest.raises(UsageError, match="is not a source"):
        pulling.pull("c", known, source="nonsense")


def test_two_at_once_fetch_and_store_it_once(web):
    url = web.put("/f.pth", FILE, delay=0.02, piece=2_000_000)
    outcomes, said = [], []

    def one():
        outcomes.append(pulling.pull("model", card(url), tell=said.append))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(web.seen) == 1
    assert sorted(outcome.fetched is None for outcome in outcomes) == [False, True]
    assert said == ["waiting for another process that pulls model"]
