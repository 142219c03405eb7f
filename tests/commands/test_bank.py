import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from tests.features.indexes.scene import brute_force, clustered, make_bank


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    home = tmp_path_factory.mktemp("banks")
    make_bank(home / "bank", *clustered(1500, 16, seed=1), shard_rows=500)
    return home / "bank", make_bank(home / "queries", *clustered(30, 16, seed=2), manifest="other")


@pytest.fixture
def bank(banks, tmp_path):
    return shutil.copytree(banks[0], tmp_path / "bank")


def test_an_index_is_made_told_of_and_searched(carp_in, bank, banks, tmp_path):
    carp = carp_in(tmp_path)
    code, out, err = carp("bank", "index", bank, "--kind", "ivf", "--recall", "0.95", "--k", "5", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["kind"] == "ivf"
    assert told["bytes"] == sum(
        p.stat().st_size for p in (bank / "index-ivf").iterdir() if p.suffix != ".json"
    )
    assert "rows added" in err
    assert "index-ivf (1,500 rows, recall@5 0." in carp("bank", "info", bank)[1].replace("\n", " ")
    assert len(json.loads(carp("bank", "info", bank, "--json")[1])["indexes"]) == 1
    assert "and 1 indexes of it, every hash right" in carp("bank", "verify", bank)[1]
    queries = banks[1]
    exact = brute_force(queries.__class__.open(bank), queries.features().float(), 5)[1]
    for more, kind, least in (((), "ivf", 0.9), (("--exact",), "exact", 1)):
        code, out, _ = carp("bank", "search", queries.path, "--among", bank, "--k", 5, "--json", *more)
        assert (code, json.loads(out)["search"]) == (0, [kind])
        table = pq.read_table("neighbours.parquet").to_pydict()
        assert table["rank"] == [1, 2, 3, 4, 5] * 30
        assert table["key"][::5] == queries.keys
        right = sum(row in exact[query] for query, row in zip(table["query"], table["row"], strict=True))
        assert right >= least * 150
        assert all(0 <= value <= 1 for value in table["similarity"])


def test_damage_is_told_of(carp_in, bank, tmp_path):
    carp = carp_in(tmp_path)
    carp("bank", "index", bank, "--kind", "ivf", "--recall", "0.9", "--k", "5")
    path = bank / "index-ivf" / "lists.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    code, _, err = carp("bank", "verify", bank)
    assert code == 2
    assert "index-ivf: lists.bin has other bytes" in err


def test_what_cannot_be_is_told_without_a_traceback(carp_in, bank, banks, tmp_path):
    carp = carp_in(tmp_path)
    queries = banks[1].path
    for arguments, said in [
        (("index", bank, "--recall", "1"), "at most 0.9999"),
        (("index", bank, "--part", "3/3"), "0/2"),
        (("index", bank, "--part", "3/4"), "3 shards"),
        (("index", tmp_path), "not a finished bank"),
        (("search", queries), "either --among BANK or --servers"),
        (("search", queries, "--among", bank, "--servers", "a:1"), "either"),
        (("search", queries, "--among", bank, "--to", "x.csv"), ".parquet"),
        (("search", queries, "--servers", "127.0.0.1:1"), "cannot be reached"),
        (("serve", bank, "--host", "256.1.1.1"), "cannot listen"),
    ]:
        code, out, err = carp("bank", *arguments)
        assert (code, out) == (2, ""), arguments
        assert said in err
        assert "Traceback" not in err


def test_a_flat_index_is_the_exact_search(carp_in, bank, tmp_path):
    code, out, _ = carp_in(tmp_path)("bank", "index", bank, "--json")
    assert code == 0
    assert (json.loads(out)["kind"], json.loads(out)["bytes"]) == ("flat", 0)


def test_a_server_prints_its_token_and_answers_who_has_it(carp_in, bank, banks, tmp_path, monkeypatch):
    carp = carp_in(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "CARP_TOKEN"}
    server = subprocess.Popen(
        [sys.executable, "-m", "carp_eval", "bank", "serve", bank],
        stdout=subprocess.PIPE,
        text=True,
        # Set to nothing is not set: a new one is printed.
        env=environment | {"COLUMNS": "200", "CARP_TOKEN": ""},
    )
    try:
        name, token = server.stdout.readline().strip().split("=", 1)
        address = server.stdout.readline().split()[-1]
        monkeypatch.delenv("CARP_TOKEN", raising=False)
        arguments = ("bank", "search", banks[1].path, "--servers", address, "--k", 3, "--json")
        code, _, err = carp(*arguments)
        assert code == 2
        assert "refuses the token" in err
        monkeypatch.setenv(name, token)
        code, out, _ = carp(*arguments)
        assert (code, json.loads(out)["search"]) == (0, ["exact"])
        assert pq.read_table("neighbours.parquet").num_rows == 90
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()
