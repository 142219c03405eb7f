import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from huggingface_hub import constants

from carp_eval.checkpoints.publishing import hub as talking
from carp_eval.checkpoints.publishing import pushing
from carp_eval.errors import HubError, UsageError
from tests import hub_server

MODEL = bytes(range(256)) * 2000
COMMIT, UPLOAD = "POST /api/models/USER/NAME/commit", "PUT /lfs"


@pytest.fixture
def hub(monkeypatch):
    with hub_server.serving() as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited, none of which pass."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(talking, "clock", lambda: sum(waited))
    return waited


@pytest.fixture
def folder(tmp_path):
    files = {
        "README.md": b"---\nlicense: mit\n---\na model\n",
        "config.json": b"{}\n",
        "model.safetensors": MODEL,
        "results/knn@dino-digits.json": b'{"top1": 91.4}',
        "results/knn@dino-digits.parquet": b"PAR1" + b"\0" * 400,
    }
    return written(tmp_path / "folder", files)


def written(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_push_makes_the_repository_hold_the_folder_by_one_commit(hub, folder):
    told = []
    pushed = pushing.push(folder, "USER/NAME", endpoint=hub.url, progress=lambda *now: told.append(now))
    assert hub.files("USER/NAME") == content_of(folder)
    assert (pushed.url, pushed.commit, pushed.changed) == (
        f"{hub.url}/USER/NAME",
        hub.head("USER/NAME"),
        True,
    )
    assert len(hub.history("USER/NAME")) == 2
    assert not hub.repositories["USER/NAME"].private
    total = sum(map(len, content_of(folder).values()))
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert len({done for done, _ in told}) > 5


def test_large_files_go_by_lfs_to_a_storage_that_never_sees_the_token(hub, folder):
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.count(UPLOAD) == 2
    assert {authorisation for request, authorisation in hub.authorised if " /lfs/" in request} == {""}
    tree = hub.repositories["USER/NAME"].commits[hub.head("USER/NAME")].tree
    assert {name for name, entry in tree.items() if entry.lfs} == {
        "model.safetensors",
        "results/knn@dino-digits.parquet",
    }


@pytest.mark.parametrize("disabled", [True, False])
def test_xet_is_not_needed_and_not_used(hub, folder, monkeypatch, disabled):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", disabled)
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.files("USER/NAME")["model.safetensors"] == MODEL
    assert hub.count("xet") == 0


def test_files_of_the_same_content_are_sent_once(hub, folder):
    same = {f"results/{name}.parquet": b"PAR1" + bytes(3_000_000) for name in "abc"}
    pushing.push(written(folder, same), "USER/NAME", endpoint=hub.url)
    assert {name: hub.files("USER/NAME")[name] for name in same} == same
    # The model, the one predictions there were, and these.
    assert hub.count(UPLOAD) == 3


def test_unchanged_content_makes_no_commit_and_sends_nothing(hub, folder):
    first = pushing.push(folder, "USER/NAME", endpoint=hub.url)
    hub.requests.clear()
    again = pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert (again.url, again.commit, again.changed) == (first.url, first.commit, False)
    assert set(again.changes.values()) == {"same"}
    assert hub.count("^(POST|PUT)") == 0


def test_only_what_changed_is_sent_and_only_what_we_wrote_is_removed(hub, folder):
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    hub.add("USER/NAME", {"notes.md": b"by hand"})
    (folder / "results/knn@dino-digits.parquet").unlink()
    (folder / "results/knn@dino-digits.json").unlink()
    (folder / "config.json").write_bytes(b'{"a": 1}')
    hub.requests.clear()
    pushed = pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert pushed.changed
    assert hub.count(UPLOAD) == 0
    assert hub.files("USER/NAME") == content_of(folder) | {"notes.md": b"by hand"}
    assert len(hub.history("USER/NAME")) == 4


def test_a_file_of_ours_that_someone_changed_is_not_removed(hub, folder):
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    hub.add("USER/NAME", {"results/knn@dino-digits.json": b"edited"})
    (folder / "results/knn@dino-digits.json").unlink()
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.files("USER/NAME")["results/knn@dino-digits.json"] == b"edited"


@pytest.mark.parametrize("pushed_before", [True, False])
def test_what_someone_else_wrote_is_replaced_only_if_asked_for(hub, folder, pushed_before):
    if pushed_before:
        pushing.push(folder, "USER/NAME", endpoint=hub.url)
    hub.add("USER/NAME", {"README.md": b"edited on the web"})
    (folder / "README.md").write_bytes(b"ours, of today")
    head = hub.head("USER/NAME")
    with pytest.raises(HubError, match=r"README\.md.*--overwrite"):
        pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.head("USER/NAME") == head
    assert hub.count(UPLOAD) == 2 * pushed_before
    pushing.push(folder, "USER/NAME", endpoint=hub.url, overwrite=True)
    assert hub.files("USER/NAME")["README.md"] == b"ours, of today"


def test_a_revision_is_a_branch_and_is_made(hub, folder):
    main = hub.add("USER/NAME", {"notes.md": b"by hand"})
    pushed = pushing.push(folder, "USER/NAME", revision="v2/trial", endpoint=hub.url)
    assert pushed.url == f"{hub.url}/USER/NAME/tree/v2/trial"
    assert hub.head("USER/NAME") == main
    assert hub.head("USER/NAME", "v2/trial") == pushed.commit
    assert hub.files("USER/NAME", "v2/trial") == content_of(folder) | {"notes.md": b"by hand"}
    assert not pushing.push(folder, "USER/NAME@v2/trial", endpoint=hub.url).changed


def test_private_makes_it_private_and_never_pushes_to_a_public_one(hub, folder):
    pushing.push(folder, "USER/NAME", private=True, endpoint=hub.url)
    assert hub.repositories["USER/NAME"].private
    assert not pushing.push(folder, "USER/NAME", endpoint=hub.url).changed
    hub.add("USER/OPEN", {})
    with pytest.raises(HubError, match="is public"):
        pushing.push(folder, "USER/OPEN", private=True, endpoint=hub.url)
    assert hub.files("USER/OPEN") == {}


def test_without_a_login_the_hub_is_not_asked(hub, folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match=r"hf auth login.*HF_TOKEN"):
        pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "repo", "words"),
    [
        ("hf_wrong", "USER/NAME", "token is not valid"),
        ("hf_reader", "USER/NAME", "no right"),
        ("hf_writer", "OTHER/NAME", "no right"),
    ],
)
def test_who_may_not_write_is_told_so(hub, folder, monkeypatch, token, repo, words):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=words):
        pushing.push(folder, repo, endpoint=hub.url)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "token is not valid"),
        (403, "no right"),
        (404, "no such repository"),
        (409, "something else is being done"),
        (412, "someone committed"),
        (429, "slow down for 9 seconds"),
        (418, "HTTP 418"),
        (503, "in trouble"),
    ],
)
@pytest.mark.parametrize("where", [COMMIT, "preupload", UPLOAD])
def test_every_refusal_is_told_and_leaves_the_old_revision(hub, folder, waits, status, words, where):
    head = hub.add("USER/NAME", {"notes.md": b"by hand"})
    hub.fault(where, times=100, status=status, headers={"Retry-After": "9"} if status == 429 else {})
    with pytest.raises(HubError, match=words) as caught:
        pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert "made to fail" in str(caught.value)
    assert hub.head("USER/NAME") == head
    assert hub.files("USER/NAME") == {"notes.md": b"by hand"}
    assert bool(waits) == (status in (429, 503))
    assert hub.count(where) <= 12


@pytest.mark.parametrize("where", [COMMIT, "preupload", UPLOAD, "repos/create", "POST /verify", "GET "])
def test_a_wait_that_is_asked_for_is_waited(hub, folder, waits, where):
    hub.fault(where, status=429, headers={"Retry-After": "7"})
    assert pushing.push(folder, "USER/NAME", endpoint=hub.url).changed
    assert hub.files("USER/NAME") == content_of(folder)
    assert len(waits) == 1
    assert waits[0] >= 7


def test_a_wait_of_hours_is_told_and_not_waited(hub, folder, waits):
    hub.fault("repos/create", status=429, headers={"Retry-After": "7200"})
    with pytest.raises(HubError, match="7200 seconds"):
        pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert waits == []


@pytest.mark.parametrize("where", [COMMIT, "preupload", UPLOAD, "repos/create", "objects/batch", "GET "])
def test_trouble_that_passes_is_no_trouble(hub, folder, waits, where):
    hub.fault(where, status=500, times=2)
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.files("USER/NAME") == content_of(folder)
    assert len(hub.history("USER/NAME")) == 2
    assert len(waits) == 2


def test_a_connection_that_is_cut_in_mid_upload_is_made_again(hub, folder, waits):
    hub.fault(UPLOAD, cut_after=100_000)
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.files("USER/NAME") == content_of(folder)


def test_what_arrived_before_a_push_broke_off_is_not_sent_again(hub, folder, waits):
    head = hub.add("USER/NAME", {"notes.md": b"by hand"})
    hub.fault(COMMIT, times=100, cut_after=10)
    with pytest.raises(HubError, match=r"connection failed.*same command again"):
        pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.head("USER/NAME") == head
    assert hub.count(UPLOAD) == 2
    hub._faults.clear()
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.count(UPLOAD) == 2
    assert hub.files("USER/NAME") == content_of(folder) | {"notes.md": b"by hand"}


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, folder, waits):
    hub.fault(COMMIT, lost=True)
    pushed = pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert pushed.commit == hub.head("USER/NAME")
    assert len(hub.history("USER/NAME")) == 2


def test_a_hub_that_is_not_there_is_told(folder, monkeypatch, waits):
    monkeypatch.setenv("HF_TOKEN", "any")
    with pytest.raises(HubError, match="connection failed"):
        pushing.push(folder, "USER/NAME", endpoint="http://127.0.0.1:9")
    assert len(waits) == len(talking.WAITS)


def test_of_two_pushes_at_once_one_hears_of_the_other(hub, folder, tmp_path, monkeypatch):
    other = written(tmp_path / "other", content_of(folder) | {"model.safetensors": MODEL[::-1]})
    hub.add("USER/NAME", {})
    meet = threading.Barrier(2)
    commit = pushing._commit

    def together(*arguments, **options):
        meet.wait(10)
        return commit(*arguments, **options)

    monkeypatch.setattr(pushing, "_commit", together)
    outcomes = []

    def run(which):
        try:
            outcomes.append((which, pushing.push(which, "USER/NAME", endpoint=hub.url)))
        except HubError as error:
            outcomes.append((which, error))

    threads = [threading.Thread(target=run, args=(which,)) for which in (folder, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [(_, refused)] = [outcome for outcome in outcomes if isinstance(outcome[1], HubError)]
    [(winner, pushed)] = [outcome for outcome in outcomes if not isinstance(outcome[1], HubError)]
    assert "someone committed" in str(refused)
    assert hub.head("USER/NAME") == pushed.commit
    assert hub.files("USER/NAME") == content_of(winner)


def test_a_push_that_is_killed_leaves_the_old_revision_and_goes_on(hub, folder, tmp_path):
    head = hub.add("USER/NAME", {"notes.md": b"by hand"})
    hub.fault(COMMIT, wait=60)
    code = (
        "import sys; from pathlib import Path; from carp_eval.checkpoints.publishing import pushing; "
        "pushing.push(Path(sys.argv[1]), 'USER/NAME', endpoint=sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder), hub.url], env=os.environ)
    deadline = time.monotonic() + 60
    while not hub.count(COMMIT):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert hub.head("USER/NAME") == head
    assert hub.files("USER/NAME") == {"notes.md": b"by hand"}
    sent = hub.count(UPLOAD)
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    assert hub.count(UPLOAD) == sent == 2
    assert hub.files("USER/NAME")["model.safetensors"] == MODEL


def test_a_file_that_the_hub_leaves_out_is_missed(hub, folder):
    hub.add("USER/NAME", {".gitignore": b"results/*.json\n"})
    # No words: the oldest client that we take stumbles over a commit to any other endpoint than its own.
    with pytest.raises(HubError):
        pushing.push(folder, "USER/NAME", endpoint=hub.url)


def test_a_folder_with_a_link_in_it_or_nothing_is_not_pushed(hub, folder, tmp_path):
    (folder / "secret.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        pushing.push(folder, "USER/NAME", endpoint=hub.url)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="nothing to push"):
        pushing.push(tmp_path / "empty", "USER/NAME", endpoint=hub.url)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    "name", ["NAME", "USER/NAME/MORE", "../NAME", "USER/NA ME", "USER/NAME@", "USER/NAME@../x"]
)
def test_what_is_no_repository_is_told_before_anything_is_asked(hub, folder, name):
    with pytest.raises(UsageError):
        pushing.push(folder, name, endpoint=hub.url)
    assert hub.requests == []


def test_a_plan_says_what_would_change_and_changes_nothing(hub, folder):
    at = talking.address("USER/NAME")
    assert set(pushing.plan(folder, at, endpoint=hub.url).changes.values()) == {"new"}
    assert hub.repositories == {}
    pushing.push(folder, "USER/NAME", endpoint=hub.url)
    hub.add("USER/NAME", {"README.md": b"edited"})
    (folder / "config.json").write_bytes(b'{"a": 1}')
    (folder / "results/knn@dino-digits.parquet").unlink()
    (folder / "recipe.json").write_bytes(b"{}")
    head = hub.head("USER/NAME")
    planned = pushing.plan(folder, at, endpoint=hub.url)
    assert planned.changes == {
        "README.md": "another's",
        "carp-files.json": "changed",
        "config.json": "changed",
        "model.safetensors": "same",
        "recipe.json": "new",
        "results/knn@dino-digits.json": "same",
        "results/knn@dino-digits.parquet": "removed",
    }
    assert (planned.exists, planned.private, planned.head) == (True, False, head)
    assert hub.head("USER/NAME") == head
    assert re.fullmatch("[0-9a-f]{40}", head)
