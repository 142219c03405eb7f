import hashlib
import json
import time
from pathlib import Path

import pytest

from carp_eval.checkpoints.publishing import getting, pushing
from carp_eval.checkpoints.publishing import hub as talking
from carp_eval.errors import CheckpointError, DataError, HubError, UsageError
from tests import hub_server

MODEL = bytes(range(256)) * 2000
RECORD = {
    "schema_version": 2,
    "protocol": "knn",
    "variant": "dino",
    "card": {},
    "card_sha256": "0" * 64,
    "model": "a-model",
    "branch": "teacher",
    "layer": "pool",
    "weights_sha256": "1" * 64,
    "dataset": "digits",
    "query_dataset": "digits",
    "bank_split": "train",
    "query_split": "test",
    "data": {},
    "banks": {},
    "preprocessing": {},
    "counts": {"queries": 1800},
    "scores": [{"metric": "top1", "value": 91.39, "settings": {"k": 20}}],
    "seed": 0,
    "device": "cpu",
    "seconds": 0.5,
    "finished": "2026-11-21T11:37:33+00:00",
    "command": "carp eval knn",
    "versions": {},
    "git_commit": "",
    "machine": "",
}
FILES = {
    "README.md": b"---\nlicense: mit\n---\na model\n",
    "config.json": b"{}\n",
    "model.safetensors": MODEL,
    "results/knn@dino-digits-20261121T113733.json": json.dumps(RECORD).encode(),
    "results/knn@dino-digits-20261121T113733.parquet": b"PAR1" + b"\0" * 400,
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    with hub_server.serving() as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def waits(monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(talking, "clock", lambda: sum(waited))
    return waited


def lying_in(folder: Path):
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    return {name: content for name, content in found.items() if not name.startswith(".parts")}


def test_what_was_pushed_comes_back_results_included(hub, tmp_path):
    for name, content in FILES.items():
        (tmp_path / "pushed" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pushed" / name).write_bytes(content)
    pushed = pushing.push(tmp_path / "pushed", "USER/NAME", private=True)
    told = []
    got = getting.get("hf:USER/NAME", progress=lambda *now: told.append(now))
    assert lying_in(got.folder) == lying_in(tmp_path / "pushed")
    assert got.snapshot.commit == pushed.commit
    [(path, result)] = got.results
    assert path == got.folder / "results/knn@dino-digits-20261121T113733.json"
    assert result.scores[0].value == 91.39
    total = sum(len(content) for content in lying_in(got.folder).values())
    assert told[-1] == (total, total)
    assert told == sorted(told)


def test_a_snapshot_holds_what_a_model_is_opened_from_and_fetches_it_once(hub):
    commit = hub.add("USER/NAME", FILES)
    snap = getting.snapshot("USER/NAME")
    assert lying_in(snap.folder) == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    assert (snap.repo, snap.revision, snap.commit) == ("USER/NAME", "main", commit)
    assert set(snap.left) == set(FILES) - set(snap.files)
    hub.requests.clear()
    assert getting.snapshot("hf:USER/NAME") == snap
    assert hub.requests == ["GET /api/models/USER/NAME"]
    hub.requests.clear()
    assert getting.snapshot(f"hf:USER/NAME@{commit}").files == snap.files
    assert hub.requests == []


def test_a_revision_is_one_revision(hub):
    first = hub.add("USER/NAME", FILES)
    hub.add("USER/NAME", {"model.safetensors": MODEL[::-1]})
    hub.add("USER/NAME", {"model.safetensors": MODEL[:1000]}, branch="small")
    sizes = {
        spelling: (getting.snapshot(f"hf:USER/NAME{spelling}").folder / "model.safetensors").read_bytes()
        for spelling in ("", "@main", f"@{first}", "@small")
    }
    assert sizes == {"": MODEL[::-1], "@main": MODEL[::-1], f"@{first}": MODEL, "@small": MODEL[:1000]}


def test_the_storage_never_sees_the_token(hub):
    hub.add("USER/NAME", FILES, private=True)
    getting.get("hf:USER/NAME")
    by_place = {" /lfs/" in request: authorisation for request, authorisation in hub.authorised}
    assert by_place == {True: "", False: f"Bearer {hub.token}"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_changed_on_the_way_is_refused(hub, name):
    commit = hub.add("USER/NAME", FILES)
    entry = hub.repositories["USER/NAME"].commits[commit].tree[name]
    kept = hub.objects if entry.lfs else hub.blobs
    whole = kept[entry.lfs or entry.oid]
    kept[entry.lfs or entry.oid] = b"X" + whole[1:]
    with pytest.raises(CheckpointError, match=rf"{name}.*damaged"):
        getting.snapshot("hf:USER/NAME")
    assert not list((Path(getting.files.home()) / "hub").rglob(name))
    kept[entry.lfs or entry.oid] = whole
    assert (getting.snapshot("hf:USER/NAME").folder / name).read_bytes() == whole


def test_a_file_that_changed_on_this_disk_is_fetched_again(hub):
    hub.add("USER/NAME", FILES)
    snap = getting.snapshot("hf:USER/NAME")
    (snap.folder / "model.safetensors").write_bytes(b"X" + MODEL[1:])
    getting.snapshot("hf:USER/NAME")
    assert (snap.folder / "model.safetensors").read_bytes() == MODEL


def test_a_connection_that_breaks_goes_on_where_it_was(hub, waits):
    hub.add("USER/NAME", FILES)
    hub.fault("GET /lfs", cut_after=300_000)
    snap = getting.snapshot("hf:USER/NAME")
    assert (snap.folder / "model.safetensors").read_bytes() == MODEL


@pytest.mark.parametrize(
    "name",
    [
        "../config.json",
        "results/../../x.json",
        "/etc/x.json",
        "a\\b.json",
        "results//x.json",
        "C:x.json",
        "a\nb.json",
    ],
)
def test_names_that_lead_elsewhere_are_refused_and_nothing_is_fetched(hub, name, tmp_path):
    hub.add("USER/NAME", FILES | {name: b"{}"})
    before = lying_in(tmp_path)
    with pytest.raises(HubError, match="outside its folder"):
        getting.get("hf:USER/NAME")
    assert hub.count("resolve") == 0
    grown = {path for path in set(lying_in(tmp_path)) - set(before) if not path.endswith(".lock")}
    assert grown == {"home/hub/USER--NAME/revisions/main"}


def test_only_known_files_are_taken(hub):
    others = {
        "modeling.py": b"print(1)",
        "pytorch_model.bin": b"\0",
        "results/run.sh": b"",
        ".git/config": b"x",
    }
    hub.add("USER/NAME", FILES | others)
    got = getting.get("hf:USER/NAME")
    assert set(lying_in(got.folder)) == set(FILES)
    assert set(got.snapshot.left) == set(others)


def test_a_hub_out_of_reach_gives_what_was_got_before(hub, waits, monkeypatch):
    commit = hub.add("USER/NAME", FILES)
    getting.snapshot("hf:USER/NAME")
    hub.fault("GET", times=1000, status=503)
    assert getting.snapshot("hf:USER/NAME").commit == commit
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert getting.snapshot("hf:USER/NAME").commit == commit
    with pytest.raises(HubError, match="connection failed"):
        getting.snapshot("hf:USER/OTHER")


def test_a_model_that_is_gone_is_not_taken_from_before(hub):
    hub.add("USER/NAME", FILES)
    getting.snapshot("hf:USER/NAME")
    del hub.repositories["USER/NAME"]
    with pytest.raises(HubError, match="no such repository"):
        getting.snapshot("hf:USER/NAME")


@pytest.mark.parametrize(
    ("spelling", "token", "words"),
    [
        ("hf:USER/NONE", "hf_writer", "no such repository"),
        ("hf:USER/HIDDEN", "hf_other", "no such repository, or it is private"),
        ("hf:USER/NAME@none", "hf_writer", "no revision 'none'"),
        ("hf:USER/NAME", "hf_wrong", "token is not valid"),
    ],
)
def test_what_is_not_there_is_told(hub, monkeypatch, spelling, token, words):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.add("USER/NAME", FILES)
    hub.add("USER/HIDDEN", FILES, private=True)
    with pytest.raises(HubError, match=words):
        getting.get(spelling)


def test_trouble_that_passes_is_no_trouble(hub, waits):
    hub.add("USER/NAME", FILES)
    hub.fault("GET /api/models/USER/NAME$", status=429, headers={"Retry-After": "7"})
    hub.fault("/tree/", status=500)
    hub.fault("resolve/[0-9a-f]+/config.json", status=503)
    assert lying_in(getting.get("hf:USER/NAME").folder) == FILES
    assert waits[0] == 7


def test_a_repository_of_something_else_is_told(hub):
    hub.add("USER/DATA", {"train.csv": b"1"})
    with pytest.raises(HubError, match=r"no model that carp pushed.*train\.csv"):
        getting.get("hf:USER/DATA")


def test_it_can_be_copied_somewhere_beside_what_is_there_but_not_over_it(hub, tmp_path):
    hub.add("USER/NAME", FILES)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/mine.txt").write_text("mine")
    got = getting.get("hf:USER/NAME", to=tmp_path / "here")
    assert lying_in(tmp_path / "here") == FILES | {"mine.txt": b"mine"}
    assert got.results[0][0].is_relative_to(tmp_path / "here")
    getting.get("hf:USER/NAME", to=tmp_path / "here")
    (tmp_path / "here/config.json").write_text("mine")
    with pytest.raises(UsageError, match=r"config\.json is there already"):
        getting.get("hf:USER/NAME", to=tmp_path / "here")
    assert (tmp_path / "here/config.json").read_text() == "mine"


def test_a_record_of_another_version_is_told(hub):
    hub.add(
        "USER/NAME", FILES | {"results/knn@dino.json": json.dumps(RECORD | {"schema_version": 1}).encode()}
    )
    with pytest.raises(DataError, match="schema version"):
        getting.get("hf:USER/NAME")


def test_the_oracle_of_hashes_is_git():
    # `printf 'hello\n' | git hash-object --stdin`
    assert hub_server.git_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
