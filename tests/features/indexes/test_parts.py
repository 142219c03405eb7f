import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import requests
import torch
import uvicorn

from carp_eval.errors import BankError, UsageError
from carp_eval.features.indexes import asking, part_search, parts, serving
from carp_eval.features.indexes import index as indexing
from carp_eval.features.indexes.asking import Servers
from carp_eval.features.search.neighbours import Neighbours
from tests.features.indexes.scene import brute_force, clustered, make_bank

TOKEN = "long enough to be a token"


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    features, labels = clustered(1100, 12, seed=1)
    # The same rows in both parts: their order must not depend on who answers first.
    features[[3, 650, 1000]] = features[3].clone()
    return make_bank(tmp_path_factory.mktemp("bank") / "bank", features, labels, shard_rows=200)


@pytest.fixture
def serve():
    """Serve a part in a thread; gives its address."""
    running = []

    def start(about, find, token=TOKEN):
        config = uvicorn.Config(serving.application(about, find, token=token), port=0, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
        return f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


def part(bank, number, count, *, exact=True):
    return part_search.searcher(parts.part_of(bank, number, count), exact=exact)


def test_parts_are_all_shards_in_order_each_once(bank):
    for count in range(1, 7):
        dealt = [parts.part_of(bank, number, count) for number in range(count)]
        assert [shard for one in dealt for shard in one.bank.record.shards] == list(bank.record.shards)
        assert [one.first for one in dealt] == np.cumsum([0] + [len(one.bank) for one in dealt])[:-1].tolist()
        assert min(len(one.bank.record.shards) for one in dealt) >= 6 // count
    with pytest.raises(UsageError, match="6 shards"):
        parts.part_of(bank, 0, 7)
    assert parts.read("1/2") == (1, 2)
    for wrong in ("2/2", "1", "-1/2", "a/b", "0/0", ""):
        with pytest.raises(UsageError, match="0/2"):
            parts.read(wrong)


def test_two_processes_answer_as_one(bank, tmp_path):
    queries, _ = clustered(40, 12, seed=2)
    queries[0] = torch.cat(bank.shards())[3].float()
    started = []
    try:
        for number in range(2):
            program = "from carp_eval.commands import main; main()"
            arguments = ["bank", "serve", bank.path, "--part", f"{number}/2"]
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", program, *map(str, arguments)],
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=tmp_path,
                    env={**os.environ, "CARP_TOKEN": TOKEN, "COLUMNS": "200"},
                )
            )
        said = [process.stdout.readline() for process in started]
        assert all(f"part {number}/2" in line for number, line in enumerate(said)), said
        assert not any(TOKEN in line for line in said)
        # In the wrong order, too.
        servers = Servers([line.split()[-1] for line in reversed(said)], token=TOKEN)
        near = servers.search(queries, k=15)
    finally:
        for process in started:
            process.terminate()
            process.wait(10)
            process.stdout.close()
    assert len(servers) == 1100
    alone = part(bank, 0, 1)[1](queries, 15, None)
    assert torch.equal(near.indices, alone.indices)
    assert torch.equal(near.similarities, alone.similarities)
    assert near.indices[0, :3].tolist() == [3, 650, 1000]
    cosines, rows = brute_force(bank, queries, 15)
    assert (near.indices.numpy() == rows)[1:].all()
    np.testing.assert_allclose(near.similarities, cosines, rtol=0, atol=1e-6)


def test_parts_answer_by_their_own_indexes(tmp_path, serve):
    bank = make_bank(tmp_path / "bank", *clustered(2000, 12, seed=3), shard_rows=500)
    addresses = []
    for number in range(2):
        own = parts.part_of(bank, number, 2)
        made = indexing.build(own.bank, kind="ivf", recall=0.95, k=5, label=own.label)
        assert made.path.name == f"index-ivf-{number}of2"
        addresses.append(serve(*part(bank, number, 2, exact=False)))
    servers = Servers(addresses, token=TOKEN)
    assert [about.kind for about in servers.abouts] == ["ivf", "ivf"]
    queries, _ = clustered(100, 12, seed=4)
    near = servers.search(queries, k=5)
    exact = brute_force(bank, queries, 5)[1]
    found = [len(set(a) & set(b)) / 5 for a, b in zip(near.indices.tolist(), exact.tolist(), strict=True)]
    assert np.mean(found) > 0.93


def test_more_queries_than_fit_one_request_are_asked_in_turns(bank, serve, monkeypatch):
    monkeypatch.setattr(asking, "MOST_ANSWERS", 70)
    queries, _ = clustered(25, 12, seed=2)
    told = []
    near = Servers([serve(*part(bank, 0, 1))], token=TOKEN).search(
        queries, k=10, progress=lambda done, of: told.append((done, of))
    )
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {(7, 25), (14, 25), (21, 25), (25, 25)} <= set(told)
    assert (near.indices.numpy() == brute_force(bank, queries, 10)[1]).all()


def test_only_who_knows_the_token_is_answered(bank, serve):
    address = serve(*part(bank, 0, 1))
    for token in ("", "wrong", TOKEN + "x"):
        with pytest.raises(BankError, match="refuses the token"):
            Servers([address], token=token)
        for method, path in (("GET", "about"), ("POST", "search?k=1")):
            headers = {"Authorization": f"Bearer {token}"}
            answer = requests.request(method, f"http://{address}/{path}", headers=headers, timeout=10)
            assert (answer.status_code, "fingerprint" in answer.text) == (401, False)


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("k=1", b"12345", 400),
        ("k=0", bytes(48), 400),
        ("k=1101", bytes(48), 400),
        ("k=x", bytes(48), 400),
        ("k=1", b"", 400),
        ("", bytes(48), 400),
        ("k=" + "9" * 5000, bytes(48), 400),
        ("k=1100", bytes(48 * 4000), 400),
        ("k=1", np.full(12, np.nan, "<f4").tobytes(), 400),
        ("k=1", bytes(serving.MOST_QUERY_BYTES + 48), 413),
        ("k=2", bytes(48), 200),
    ],
)
def test_what_is_no_search_is_refused(bank, serve, query, body, status):
    address = serve(*part(bank, 0, 1))
    answer = requests.post(
        f"http://{address}/search?{query}",
        data=body,
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=30,
    )
    assert answer.status_code == status
    if status == 200:
        # Signs that it is at work, that here are the neighbours, and these: two similarities, two rows.
        signs = np.frombuffer(answer.content[:-32], "<i8").tolist()
        assert signs == [0] * (len(signs) - 1) + [-1]
        assert np.frombuffer(answer.content[-16:], "<i8").tolist() == [0, 1]


def test_servers_must_be_the_parts_of_one_bank(bank, serve, tmp_path):
    first, second = (serve(*part(bank, number, 2)) for number in range(2))
    other = make_bank(tmp_path / "other", *clustered(1100, 12, seed=7), shard_rows=200, manifest="xy")
    foreign = serve(*part(other, 1, 2))
    for addresses in ([first], [second], [first, first], [first, second, second], [first, foreign]):
        with pytest.raises(BankError, match="not the parts of one bank"):
            Servers(addresses, token=TOKEN)
    with pytest.raises(BankError, match="cannot be reached"):
        Servers(["127.0.0.1:1"], token=TOKEN)
    for address in ("", "127.0.0.1", "http://127.0.0.1:1", "127.0.0.1:1/x", "me@127.0.0.1:1", "a b:1"):
        with pytest.raises(UsageError, match="HOST:PORT"):
            Servers([address], token=TOKEN)
    servers = Servers([first, second], token=TOKEN)
    with pytest.raises(BankError, match="weights_sha256"):
        servers.check_comparable(bank.fingerprint.model_copy(update={"weights_sha256": "zz"}))
    servers.check_comparable(other.fingerprint)
    for queries, k, said in ((torch.ones(1, 12), 1101, "from 1 to 1100"), (torch.ones(1, 5), 1, "12 wide")):
        with pytest.raises(UsageError, match=said):
            servers.search(queries, k=k)


def test_a_long_search_is_waited_for_as_long_as_there_are_signs(bank, serve, monkeypatch):
    monkeypatch.setattr(serving, "SECONDS_BETWEEN_SIGNS", 0.05)
    monkeypatch.setattr(asking, "SECONDS_WITHOUT_A_SIGN", 0.6)
    addresses = []
    for number in range(2):
        about, quick = part(bank, number, 2)

        def slow(queries, k, progress, quick=quick, number=number):
            for query in range(len(queries)):
                time.sleep(0.1 + 0.05 * number)
                progress(query + 1, len(queries))
            return quick(queries, k, None)

        addresses.append(serve(about, slow))
    queries, _ = clustered(12, 12, seed=2)
    told = []
    near = Servers(addresses, token=TOKEN).search(
        queries, k=10, progress=lambda done, of: told.append((done, of))
    )
    assert (near.indices.numpy() == brute_force(bank, queries, 10)[1]).all()
    # By the slower of the two.
    assert len(told) > 6
    assert told == sorted(set(told))
    assert told[-1] == (12, 12)


def test_a_server_that_gives_no_sign_is_not_waited_for(bank, serve, monkeypatch):
    monkeypatch.setattr(serving, "SECONDS_BETWEEN_SIGNS", 60.0)
    monkeypatch.setattr(asking, "SECONDS_WITHOUT_A_SIGN", 0.2)
    about, quick = part(bank, 0, 1)
    go = threading.Event()

    def stuck(queries, k, progress):
        go.wait(30)
        return quick(queries, k, None)

    address = serve(about, stuck)
    with pytest.raises(BankError, match=rf"{address} has not answered within 0\.2 seconds"):
        Servers([address], token=TOKEN).search(torch.ones(2, 12), k=3)
    go.set()


def test_a_server_that_is_killed_while_it_searches_is_named(bank, tmp_path):
    program = f"""
import os, signal, sys, threading, uvicorn
from pathlib import Path
from carp_eval.features.bank import Bank
from carp_eval.features.indexes import part_search, parts, serving

about, _ = part_search.searcher(parts.part_of(Bank.open(Path(sys.argv[1]))), exact=True)
serving.SECONDS_BETWEEN_SIGNS = 0.05


def find(queries, k, progress):
    threading.Event().wait(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


app = serving.application(about, find, token={TOKEN!r})
server = uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[2]), log_level="error"))
server.run()
"""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    killed = subprocess.Popen([sys.executable, "-c", program, bank.path, str(port)])
    try:
        for _ in range(600):
            with suppress(BankError):
                servers = Servers([f"127.0.0.1:{port}"], token=TOKEN)
                break
            time.sleep(0.05)
        with pytest.raises(BankError, match=f"127.0.0.1:{port} broke off in the middle"):
            servers.search(torch.ones(2, 12), k=3)
    finally:
        killed.kill()
        assert killed.wait(10) == -signal.SIGKILL


def test_a_search_that_nobody_waits_for_is_stopped(bank, serve, monkeypatch):
    monkeypatch.setattr(serving, "SECONDS_BETWEEN_SIGNS", 0.05)
    about, quick = part(bank, 0, 1)
    begun, ended = threading.Event(), threading.Event()
    searches = iter(range(2))

    def endless(queries, k, progress):
        if next(searches):
            return quick(queries, k, None)
        begun.set()
        try:
            while True:
                time.sleep(0.01)
                progress(0, len(queries))
        finally:
            ended.set()

    address = serve(about, endless)
    with requests.post(
        f"http://{address}/search?k=2",
        data=bytes(48),
        headers={"Authorization": f"Bearer {TOKEN}"},
        stream=True,
        timeout=30,
    ) as answer:
        assert answer.raw.read(8) == bytes(8)
        assert begun.wait(20)
        assert not ended.is_set()
    assert ended.wait(20)
    # It has not kept its turn.
    near = Servers([address], token=TOKEN).search(torch.ones(2, 12), k=3)
    assert (near.indices.numpy() == brute_force(bank, torch.ones(2, 12), 3)[1]).all()


def test_what_a_server_cannot_search_is_said_in_its_words(bank, serve):
    about, _ = part(bank, 0, 1)

    def damaged(queries, k, progress):
        raise BankError("a shard is gone")

    address = serve(about, damaged)
    with pytest.raises(BankError, match=f"{address} cannot search: a shard is gone"):
        Servers([address], token=TOKEN).search(torch.ones(2, 12), k=3)


def test_who_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(asking, "SECONDS_TO_TELL", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(BankError, match=r"not answered within 0\.2 seconds"):
            Servers([address], token=TOKEN)


@pytest.mark.parametrize("trouble", ["row", "number", "length"])
def test_answers_that_cannot_be_are_not_believed(bank, serve, trouble):
    about, _ = part(bank, 0, 1)

    def lie(queries, k, progress):
        shape = (len(queries) + (trouble == "length"), k)
        value = float("nan") if trouble == "number" else 0.5
        row = 5000 if trouble == "row" else 1
        return Neighbours(torch.full(shape, value, dtype=torch.float64), torch.full(shape, row))

    with pytest.raises(BankError, match="answered"):
        Servers([serve(about, lie)], token=TOKEN).search(torch.ones(2, 12), k=3)
