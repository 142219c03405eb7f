import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from carp_eval.checkpoints.downloads import transfer
from carp_eval.checkpoints.downloads.asking import Request
from carp_eval.errors import CheckpointError, StorageError
from tests.checkpoints.http_server import in_seconds

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
PIECE = 32 * 1024


def ranges(web, path="/f.pth"):
    return [seen.headers.get("range", "") for seen in web.gets(path)]


def test_a_file_comes_whole_in_one_request(web, tmp_path):
    heard = []
    part = tmp_path / "new" / "part"
    told = transfer.download(
        Request(web.put("/f.pth", CONTENT)), part, progress=lambda done, total: heard.append((done, total))
    )
    assert part.read_bytes() == CONTENT
    assert told.total == len(CONTENT)
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert len(web.seen) == 1
    transfer.forget(part)
    assert list(part.parent.iterdir()) == []


def test_a_cut_connection_goes_on_where_it_broke(web, tmp_path):
    url = web.put("/f.pth", CONTENT, script=["cut:100000", "cut:0", "cut:90000"])
    said = []
    transfer.download(Request(url), tmp_path / "part", tell=said.append)
    assert (tmp_path / "part").read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for asked in ranges(web)[1:]]
    assert 100_000 - PIECE <= starts[0] <= 100_000
    assert starts[1] == starts[0]
    assert starts[0] + 90_000 - PIECE <= starts[2] <= starts[0] + 90_000
    assert all(seen.headers["if-range"] == '"v1"' for seen in web.seen[1:])
    assert len(said) == 3
    assert "the connection broke" in said[0]


def test_a_server_that_ignores_ranges_is_not_spliced(web, tmp_path):
    url = web.put("/f.pth", CONTENT, script=["cut:100000"], ranges=False)
    transfer.download(Request(url), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [seen.status for seen in web.seen] == [200, 200]


@pytest.mark.parametrize("kept_word", [True, False])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"etag": '"v2"'}),
        (
            {"etag": "", "modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            {"modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
        ),
        ({"etag": 'W/"v1"', "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"etag": 'W/"v2"'}),
        # Nothing tells the version: only the size does.
        ({"etag": "", "modified": ""}, {"content": OTHER[:290_000]}),
    ],
)
def test_a_file_that_changed_meanwhile_is_fetched_anew(web, tmp_path, monkeypatch, before, after, kept_word):
    """`kept_word`: whether the server keeps to If-Range, as it should."""
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    url = web.put("/f.pth", CONTENT, script=["cut:200000"], **before)
    with pytest.raises(CheckpointError, match=r"the connection broke.* bytes that came are kept"):
        transfer.download(Request(url), tmp_path / "part")
    monkeypatch.undo()
    how = {"content": OTHER} | before | after
    web.put("/f.pth", if_range=kept_word, **how)
    assert transfer.download(Request(url), tmp_path / "part", hash_is_known=True).total == len(how["content"])
    assert (tmp_path / "part").read_bytes() == how["content"]


def test_a_server_that_goes_on_elsewhere_than_asked_is_not_spliced(web, tmp_path):
    url = web.put("/f.pth", CONTENT, script=["cut:100000", "early"])
    transfer.download(Request(url), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [bool(asked) for asked in ranges(web)] == [False, True, False]


@pytest.mark.parametrize(("known", "goes_on"), [(True, True), (False, False)])
def test_where_no_version_is_named_it_goes_on_only_to_a_known_hash(
    web, tmp_path, monkeypatch, known, goes_on
):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    url = web.put("/f.pth", CONTENT, script=["cut:100000"], etag="")
    for _ in range(2):
        try:
            transfer.download(Request(url), tmp_path / "part", hash_is_known=known)
        except CheckpointError:
            continue
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert bool(ranges(web)[1]) is goes_on


def test_a_weak_version_does_not_vouch_for_a_part(web, tmp_path):
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    url = web.put("/f.pth", CONTENT, script=["cut:100000"], etag='W/"v1"', modified=date)
    transfer.download(Request(url), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert web.seen[1].headers["if-range"] == date


def test_a_part_nothing_is_known_of_is_not_gone_on_with(web, tmp_path):
    (tmp_path / "part").write_bytes(OTHER[:50_000])
    transfer.download(Request(web.put("/f.pth", CONTENT)), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(web) == [""]


def test_a_part_that_was_whole_asks_for_nothing(web, tmp_path):
    request = Request(web.put("/f.pth", CONTENT))
    transfer.download(request, tmp_path / "part")
    assert transfer.download(request, tmp_path / "part").total == len(CONTENT)
    assert len(web.seen) == 1


def test_a_part_longer_than_the_file_is_begun_anew(web, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    url = web.put("/f.pth", CONTENT, script=["cut:200000"], etag="", length=True)
    with pytest.raises(CheckpointError):
        transfer.download(Request(url), tmp_path / "part", hash_is_known=True)
    monkeypatch.undo()
    web.put("/f.pth", CONTENT[:1000], etag="")
    transfer.download(Request(url), tmp_path / "part", hash_is_known=True)
    assert (tmp_path / "part").read_bytes() == CONTENT[:1000]


def test_a_file_of_untold_length_comes_too(web, tmp_path):
    heard = []
    url = web.put("/f.pth", CONTENT, length=False, delay=0.15, piece=100_000)
    told = transfer.download(Request(url), tmp_path / "part", progress=lambda *how: heard.append(how))
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert told.total == 0
    assert heard[0][1] == 0
    assert heard[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    ("status", "words"),
    [("404", "no such file"), ("403", "not public"), ("401", "hf auth login"), ("410", "taken away")],
)
def test_a_refusal_is_told_at_once(web, tmp_path, status, words):
    url = web.put("/f.pth", CONTENT, script=[status] * 9)
    with pytest.raises(CheckpointError, match=rf"it answered {status}: .*{words}"):
        transfer.download(Request(url), tmp_path / "part")
    assert len(web.seen) == 1


def test_a_server_in_trouble_is_asked_again(web, tmp_path):
    url = web.put("/f.pth", CONTENT, script=["500", "503", "502", "cut:50000", "504", "408"])
    transfer.download(Request(url), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert len(web.seen) == 7


def test_but_not_for_ever(web, tmp_path):
    url = web.put("/f.pth", CONTENT, script=["503"] * 99)
    with pytest.raises(CheckpointError, match="it answered 503"):
        transfer.download(Request(url), tmp_path / "part")
    assert len(web.seen) == transfer.ATTEMPTS


def test_a_server_that_asks_to_wait_is_waited_for(web, tmp_path):
    url = web.put("/f.pth", CONTENT, script=["429:1"])
    said = []
    start = time.monotonic()
    transfer.download(Request(url), tmp_path / "part", tell=said.append)
    assert time.monotonic() - start >= 1
    assert "429" in said[0]
    assert "in 1 s" in said[0]


@pytest.mark.parametrize("as_date", [False, True])
def test_but_not_for_long(web, tmp_path, as_date):
    url = web.put("/f.pth", CONTENT, script=[f"429:{in_seconds(1000) if as_date else 1000}"])
    with pytest.raises(CheckpointError, match=r"429.* asked again in (1000|99\d) s"):
        transfer.download(Request(url), tmp_path / "part")
    assert len(web.seen) == 1


def test_a_redirect_is_followed_and_logins_are_not_told_to_others(web, tmp_path):
    web.put("/stored.pth", CONTENT, script=["cut:100000"])
    url = web.put("/f.pth", b"", redirect=web.url("/stored.pth", host="localhost"))
    transfer.download(Request(url, headers={"Authorization": "Bearer secret"}), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [seen.headers.get("authorization") for seen in web.gets("/f.pth")] == ["Bearer secret"] * 2
    assert [seen.headers.get("authorization") for seen in web.gets("/stored.pth")] == [None] * 2
    assert web.gets("/stored.pth")[1].headers["range"]


def test_the_hash_that_the_hub_tells_is_passed_on(web, tmp_path):
    web.put("/stored.pth", CONTENT)
    url = web.put("/f.pth", b"", redirect=web.url("/stored.pth"), headers={"X-Linked-Etag": f'"{"a" * 64}"'})
    assert transfer.download(Request(url), tmp_path / "part").sha256 == "a" * 64
    assert transfer.look(Request(url)).sha256 == "a" * 64


def test_a_web_page_is_no_file(web, tmp_path):
    url = web.put("/f.pth", CONTENT, script=["cut:100000", "html"])
    with pytest.raises(CheckpointError, match="a web page that calls itself 'Sign in' came instead"):
        transfer.download(Request(url), tmp_path / "part")
    assert 0 < (tmp_path / "part").stat().st_size <= 100_000


def test_what_is_sent_as_a_file_is_one_whatever_its_type(web, tmp_path):
    told = {"Content-Disposition": 'attachment; filename="f.pth"'}
    url = web.put("/f.pth", CONTENT, kind="text/html", headers=told)
    transfer.download(Request(url), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_file_of_another_size_is_not_begun(web, tmp_path):
    url = web.put("/f.pth", CONTENT, delay=0.5, piece=1000)
    with pytest.raises(CheckpointError, match="another file: 300,000 bytes, where 299,999 are expected"):
        transfer.download(Request(url), tmp_path / "part", size=299_999)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_compressed_on_the_way_is_refused(web, tmp_path):
    url = web.put("/f.pth", CONTENT, headers={"Content-Encoding": "gzip"})
    with pytest.raises(CheckpointError, match="gzip-encoded"):
        transfer.download(Request(url), tmp_path / "part")
    assert web.seen[0].headers["accept-encoding"] == "identity"


def test_nobody_there_is_said_in_the_systems_words(tmp_path, web):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(CheckpointError, match="no connection: Connection refused"):
        transfer.download(Request(f"http://127.0.0.1:{port}/f.pth"), tmp_path / "part")


def test_a_proxy_of_the_environment_is_used(web, tmp_path, monkeypatch):
    """A proxy gets the whole address; this one answers for a host that is not there."""
    monkeypatch.setenv("http_proxy", web.url(""))
    web.put("http://nowhere.invalid/f.pth", CONTENT)
    transfer.download(Request("http://nowhere.invalid/f.pth"), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_disk_without_room_is_told_before_a_byte_comes(web, tmp_path, monkeypatch):
    url = web.put("/f.pth", CONTENT, headers={"Content-Length": str(10**18)})
    monkeypatch.setattr(web.shelves["/f.pth"], "length", False)
    with pytest.raises(StorageError, match=r"1000000000\.00 GB are still to come"):
        transfer.download(Request(url), tmp_path / "part")


DOWNLOAD = """
import sys
from pathlib import Path
from carp_eval.checkpoints.downloads import transfer
from carp_eval.checkpoints.downloads.asking import Request
{before}
try:
    transfer.download(Request(sys.argv[1]), Path(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
{after}
"""


def in_a_process(url, part, *, before="", after="", wait=True):
    command = [sys.executable, "-c", DOWNLOAD.format(before=before, after=after), url, str(part)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process.communicate(timeout=60)[0] if wait else process


def test_a_disk_that_fills_up_keeps_what_came(web, tmp_path):
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (123456, 123456))\n"
    )
    url = web.put("/f.pth", CONTENT)
    said = in_a_process(url, tmp_path / "part", before=limit)
    assert said.startswith("StorageError the disk took no more; the 123,456 bytes that came are kept")
    assert "the same command again" in said
    transfer.download(Request(url), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(web) == ["", "bytes=123456-"]


def test_a_kill_costs_no_byte_that_was_written(web, tmp_path):
    url = web.put("/f.pth", CONTENT, delay=0.02, piece=4096)
    part = tmp_path / "part"
    process = in_a_process(url, part, wait=False)
    while not part.is_file() or part.stat().st_size < 100_000:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    there = part.stat().st_size
    assert there < len(CONTENT)
    web.shelves["/f.pth"].delay = 0.0
    transfer.download(Request(url), part)
    assert part.read_bytes() == CONTENT
    assert ranges(web) == ["", f"bytes={there}-"]
    assert web.seen[1].sent == len(CONTENT) - there


def test_memory_does_not_grow_with_the_file(web, tmp_path):
    url = web.put("/f.pth", bytes(80_000_000))
    measure = "import resource; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    told = "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    grown = in_a_process(url, tmp_path / "part", before=measure, after=told)
    assert (tmp_path / "part").stat().st_size == 80_000_000
    assert float(grown) < 30
