import hashlib
import random
import threading

import pytest
from huggingface_hub import constants

from carp_eval.checkpoints.downloads import fetching, pins, transfer
from carp_eval.errors import CheckpointError, UsageError
from tests import hub_server
from tests.checkpoints.http_server import Server

CONTENT = random.Random(0).randbytes(200_000)
OTHER = random.Random(1).randbytes(200_000)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def web(monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    server = Server()
    yield server
    server.close()


def fetch(*sources, **how):
    return fetching.fetch(sources, name="model", **how)


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "home" / "downloads" / "model").glob("*"))


def test_a_file_is_fetched_from_the_first_source_that_gives_it(web, tmp_path):
    broken = web.put("/broken.pth", CONTENT, script=["cut:50000"] + ["503"] * 9)
    good = web.put("/good.pth", CONTENT)
    unasked = web.put("/unasked.pth", CONTENT)
    said = []
    fetched = fetch(web.url("/gone.pth"), broken, good, unasked, sha256=sha256(CONTENT), tell=said.append)
    assert fetched.path == tmp_path / "home" / "downloads" / "model" / "good.pth"
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.source, fetched.sha256, fetched.size) == (good, sha256(CONTENT), 200_000)
    assert fetched.vouched == "card"
    assert not web.gets("/unasked.pth")
    assert any("gone.pth" in line and "404" in line and "next source" in line for line in said)
    # What the broken source gave is of no use any more.
    assert left(tmp_path) == ["fetched.json", "good.pth"]


def test_a_file_with_another_hash_is_removed_and_the_next_source_tried(web, tmp_path):
    bad, good = web.put("/bad.pth", OTHER), web.put("/good.pth", CONTENT)
    said = []
    fetched = fetch(bad, good, sha256=sha256(CONTENT), tell=said.append)
    assert fetched.source == good
    assert f"has the SHA-256 {sha256(OTHER)}; the card's is {sha256(CONTENT)}" in said[0]
    assert left(tmp_path) == ["fetched.json", "good.pth"]


def test_where_all_fail_each_reason_is_told_and_what_to_do(web, tmp_path):
    gone = web.url("/gone.pth")
    page = web.put("/page.pth", CONTENT, script=["html"])
    hidden = web.put("/hidden.pth", b"<!DOCTYPE html><title>Quota exceeded</title>")
    short = web.put("/short.pth", CONTENT[:-1])
    bad = web.put("/bad.pth", OTHER)
    with pytest.raises(CheckpointError) as caught:
        fetch(
            gone, page, hidden, short, bad, sha256=sha256(CONTENT), by_hand="Ask the authors.\nThey answer."
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "model could not be fetched:"
    for line, source, words in zip(
        lines[1:6],
        (gone, page, hidden, short, bad),
        ("404", "'Sign in'", "'Quota exceeded'", "SHA-256", "SHA-256"),
        strict=True,
    ):
        assert source in line
        assert words in line
    assert lines[6:] == [
        "By hand:",
        "  Ask the authors.",
        "  They answer.",
        "and then, with the FILE that you have:",
        "  carp zoo import FILE --as model",
    ]
    assert left(tmp_path) == []


def test_without_a_source_there_is_what_to_do_by_hand(web):
    with pytest.raises(CheckpointError, match=r"no source to fetch it from\.\nBy hand:\n  Ask them\.\n"):
        fetch(by_hand="Ask them.")


@pytest.mark.parametrize("told", [True, False])
def test_the_size_is_checked_before_and_after(web, told):
    url = web.put("/f.pth", CONTENT, length=told)
    with pytest.raises(CheckpointError, match=r"200,000 bytes.* where 5 are expected"):
        fetch(url, size=5)
    assert fetch(url, size=200_000).size == 200_000


def test_an_empty_file_is_none(web):
    with pytest.raises(CheckpointError, match="what came is empty"):
        fetch(web.put("/f.pth", b""))


@pytest.mark.parametrize(
    ("name", "vouched"),
    [
        (f"resnet50-{sha256(CONTENT)[:8]}.pth", "file name"),
        (f"resnet50_20220225-{sha256(CONTENT)[:12]}.pth.tar", "file name"),
        ("resnet50-deadbeef.pth", None),
        # A date, as likely as not.
        ("resnet50-20220225.pth", "nobody"),
        ("resnet50-0676.pth", "nobody"),
    ],
)
def test_a_hash_in_a_file_name_is_checked(web, name, vouched):
    url = web.put(f"/{name}", CONTENT)
    if vouched is None:
        with pytest.raises(CheckpointError, match="that in the file's name is deadbeef"):
            fetch(url)
    else:
        assert fetch(url).vouched == vouched


def test_a_whole_file_that_lies_there_is_taken_without_asking(web):
    url = web.put("/f.pth", CONTENT)
    first = fetch(url)
    assert fetch(url) == first
    assert len(web.seen) == 1
    assert fetch(url, sha256=sha256(CONTENT)) == first
    assert len(web.seen) == 1
    assert fetch(url, anew=True) == first
    assert len(web.seen) == 2
    first.path.write_bytes(OTHER)
    assert fetch(url).path.read_bytes() == CONTENT
    assert len(web.seen) == 3


def test_but_not_if_it_is_of_another_source_or_hash(web):
    fetch(web.put("/f.pth", CONTENT))
    other = web.put("/other.pth", OTHER)
    assert fetch(other).path.read_bytes() == OTHER
    assert fetch(web.url("/f.pth"), sha256=sha256(CONTENT)).path.read_bytes() == CONTENT


def test_a_source_that_gives_another_file_than_it_gave_is_not_trusted(web, tmp_path):
    url, mirror = web.put("/f.pth", OTHER), web.put("/mirror.pth", CONTENT)
    pins.keep(url, sha256=sha256(CONTENT), size=200_000)
    with pytest.raises(CheckpointError) as caught:
        fetch(url, mirror)
    for words in (
        "gives another file",
        sha256(OTHER),
        sha256(CONTENT),
        "carp pull model --repin",
        "--source",
    ):
        assert words in str(caught.value)
    assert not web.gets("/mirror.pth")
    # What came is kept for --repin, which need not fetch it again; without it, it is asked again.
    assert fetch(url, repin=True).sha256 == sha256(OTHER)
    assert len(web.gets("/f.pth")) == 1
    with pytest.raises(CheckpointError, match="gives another file"):
        fetch(url)
    assert len(web.gets("/f.pth")) == 2
    web.put("/f.pth", CONTENT)
    assert fetch(url).sha256 == sha256(CONTENT)


def test_repin_asks_the_source_again_though_the_old_file_lies_there(web):
    url = web.put("/f.pth", CONTENT)
    pins.keep(url, sha256=fetch(url).sha256, size=200_000)
    web.put("/f.pth", OTHER, etag='"v2"')
    assert fetch(url).sha256 == sha256(CONTENT)
    assert fetch(url, repin=True).sha256 == sha256(OTHER)


def test_the_cards_hash_stands_above_a_pin(web):
    url = web.put("/f.pth", CONTENT)
    pins.keep(url, sha256=sha256(OTHER), size=200_000)
    assert fetch(url, sha256=sha256(CONTENT)).vouched == "card"


def test_two_at_once_fetch_it_once(web):
    url = web.put("/f.pth", CONTENT, delay=0.05, piece=20_000)
    said, fetched = [], []

    def one():
        fetched.append(fetch(url, tell=said.append))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(web.seen) == 1
    assert fetched[0] == fetched[1] == fetched[2]
    assert said == ["waiting for another process that fetches model"] * 2


def test_offline_is_said(web, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        fetch(web.put("/f.pth", CONTENT))
    assert not web.seen


def test_a_source_that_is_none_is_told_before_anything_is_fetched(web):
    with pytest.raises(UsageError, match="is not a source"):
        fetch(web.put("/f.pth", CONTENT), "ftp://host/f.pth")
    assert not web.seen


def test_look_asks_and_fetches_nothing(web, tmp_path):
    assert fetching.look(web.put("/f.pth", CONTENT)).total == 200_000
    with pytest.raises(CheckpointError, match="404"):
        fetching.look(web.url("/gone.pth"))
    with pytest.raises(CheckpointError, match="503"):
        fetching.look(web.put("/busy.pth", CONTENT, script=["503"]))
    assert not (tmp_path / "home").exists()


@pytest.fixture
def hub(monkeypatch, web):
    with hub_server.serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


def test_a_file_of_the_hub_comes_with_the_hubs_hash_and_login(hub):
    hub.add("USER/private", {"deep/f.pth": CONTENT}, private=True)
    hub.fault("GET /lfs", cut_after=90_000)
    fetched = fetch("hf:USER/private/deep/f.pth")
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.vouched == "server"
    assert hub.count("GET /lfs") == 2
    assert {told for request, told in hub.authorised if "/lfs/" in request} == {""}


def test_a_revision_of_the_hub(hub):
    commit = hub.add("USER/model", {"f.pth": CONTENT})
    hub.add("USER/model", {"f.pth": OTHER})
    assert fetch(f"hf:USER/model@{commit}/f.pth").sha256 == sha256(CONTENT)
    assert fetch("hf:USER/model/f.pth").sha256 == sha256(OTHER)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hf:USER/nothing/f.pth", "no such repository, or it is private"),
        ("hf:USER/model@v9/f.pth", "no such revision"),
        ("hf:USER/model/g.pth", "no such file"),
        ("hf:OTHER/private/f.pth", "no such repository, or it is private"),
    ],
)
def test_what_the_hub_does_not_have_is_told(hub, source, words):
    hub.add("USER/model", {"f.pth": CONTENT})
    hub.add("OTHER/private", {"f.pth": CONTENT}, private=True)
    with pytest.raises(CheckpointError, match=words):
        fetch(source)
