"""Google Drive through the real gdown and requests; only the machine that answers is ours."""

import random
import shutil

import pytest

from carp_eval.checkpoints.downloads import drive, sources, transfer
from carp_eval.errors import CheckpointError
from tests.checkpoints.downloads.drive_server import FILE, Drive

CONTENT = random.Random(0).randbytes(200_000)
DATE = "Mon, 01 Jan 2024 00:00:00 GMT"
FOLDER_ID, INNER_ID, FILE_ID, OTHER_ID = "F" * 33, "I" * 33, "A" * 33, "B" * 33

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Drive(tmp_path_factory.mktemp("google"))
    yield server
    server.close()


@pytest.fixture
def google(server, monkeypatch):
    server.shelves.clear()
    server.seen.clear()
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, server.url(""))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.certificate))
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.01)
    return server


def fetch(spelling, part):
    transfer.download(drive.request(sources.parse(spelling)), part)
    return part.read_bytes()


def test_a_small_file_comes_at_once(google, tmp_path):
    google.file(FILE_ID, CONTENT, scanned=True)
    assert fetch(f"gdrive:{FILE_ID}", tmp_path / "part") == CONTENT


def test_a_large_file_comes_from_behind_the_page_and_goes_on_there(google, tmp_path):
    behind = google.file(FILE_ID, CONTENT, script=["cut:100000"], etag="", modified=DATE)
    assert fetch(f"gdrive:{FILE_ID}", tmp_path / "part") == CONTENT
    served = [seen for seen in google.seen if seen.path == behind]
    assert [seen.status for seen in served] == [200, 206]
    assert served[1].headers["if-range"] == DATE
    assert served[1].sent < 200_000 - 50_000


def test_a_file_is_found_in_a_shared_folder(google, tmp_path):
    google.folder(FOLDER_ID, "carp", files=[(OTHER_ID, "README.md")], folders=[(INNER_ID, "carp-400ep")])
    google.folder(INNER_ID, "carp-400ep", files=[(OTHER_ID, "log.txt"), (FILE_ID, "checkpoint0399.pth")])
    google.file(FILE_ID, CONTENT)
    spelling = f"gdrive:{FOLDER_ID}/carp-400ep/checkpoint0399.pth"
    assert fetch(spelling, tmp_path / "part") == CONTENT
    with pytest.raises(CheckpointError) as caught:
        drive.request(sources.parse(f"gdrive:{FOLDER_ID}/carp-400ep/checkpoint0199.pth"))
    assert "has no carp-400ep/checkpoint0199.pth" in str(caught.value)
    assert "README.md, carp-400ep/checkpoint0399.pth, carp-400ep/log.txt" in str(caught.value)


def test_a_folder_that_is_not_shared_is_said(google):
    with pytest.raises(CheckpointError, match="its folder cannot be listed"):
        drive.request(sources.parse(f"gdrive:{FOLDER_ID}/a.pth"))


def test_a_quota_that_is_used_up_is_said(google, tmp_path):
    google.show(
        f"{FILE}?export=download&id={FILE_ID}",
        "<html><head><title>Google Drive - Quota exceeded</title></head>\n"
        '<p class="uc-error-subcaption">Too many users have downloaded this file recently.</p></html>',
    )
    with pytest.raises(
        CheckpointError, match=r"a page instead of the file: Too many users .* free again after a day"
    ):
        fetch(f"gdrive:{FILE_ID}", tmp_path / "part")


def test_a_file_that_asks_for_a_login_is_said(google, tmp_path):
    google.show(f"{FILE}?export=download&id={FILE_ID}", "<html><head><title>Sign in</title></head></html>")
    with pytest.raises(CheckpointError, match=r"a page instead of the file: .*permission"):
        fetch(f"gdrive:{FILE_ID}", tmp_path / "part")


def test_a_certificate_that_nobody_vouches_for_is_refused(google, tmp_path, monkeypatch):
    google.file(FILE_ID, CONTENT)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(CheckpointError, match="its certificate cannot be used"):
        fetch(f"gdrive:{FILE_ID}", tmp_path / "part")


def test_without_a_connection_each_step_says_so(monkeypatch, tmp_path):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="the proxy cannot be used"):
        fetch(f"gdrive:{FILE_ID}", tmp_path / "part")
    with pytest.raises(CheckpointError, match="its folder cannot be listed: no connection"):
        drive.request(sources.parse(f"gdrive:{FOLDER_ID}/a.pth"))
