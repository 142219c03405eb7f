import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carp_eval import files
from carp_eval.errors import StorageError


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "kept.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as beside:
        beside.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_gets_the_modes_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_write_that_breaks_off_is_said_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.txt"
    files.write_text(path, "old")
    # A limit on the file size makes the write itself fail, as a full disk does.
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from carp_eval import files, errors\n"
        "path = Path(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    files.write_text(path, 'x' * 5000)\n"
        "except errors.StorageError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert "larger than this system allows" in told.stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        files.write_text(tmp_path / "file" / "inside", "text")
    with pytest.raises(StorageError, match="a file of that name"):
        files.make_folder(tmp_path / "file")


def test_what_cannot_be_written_is_found_out_beforehand(tmp_path):
    files.check_writable(tmp_path / "new" / "newer")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside", Path("/proc/x")):
        with pytest.raises(StorageError, match="cannot"):
            files.check_writable(folder)


def test_a_folder_that_cannot_be_made_is_said():
    # The kernel refuses new names there to everyone, as a share that is gone does.
    with pytest.raises(StorageError, match="cannot make the folder /proc/x: nothing can be made there"):
        files.make_folder(Path("/proc/x"))


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "abc") == known


def test_home_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    assert files.home() == tmp_path
    monkeypatch.delenv("CARP_HOME")
    assert files.home().name == "carp"


def _hold(path: Path, seconds: float) -> None:
    with files.locked(path):
        path.with_suffix(".held").touch()
        time.sleep(seconds)


def test_a_lock_makes_a_second_process_wait(tmp_path):
    path = tmp_path / "bank"
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(path, 0.5))
    holder.start()
    while not path.with_suffix(".held").exists():
        time.sleep(0.01)
    with files.locked(path) as free:
        assert not free
    holder.join()
    with files.locked(path) as free:
        assert free
