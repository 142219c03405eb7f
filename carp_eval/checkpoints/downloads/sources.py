"""How cards spell where a file may be had."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from carp_eval.errors import UsageError

SPELLINGS = (
    "hf:USER/NAME[@REVISION]/PATH, an https: or http: address, gdrive:FILE_ID, or gdrive:FOLDER_ID/PATH"
)

_HUB = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?/(?P<path>.+)")
_DRIVE = re.compile(r"gdrive:(?P<id>[\w-]+)(/(?P<path>.+))?")


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the Hub.

    Attributes:
        spelling: As the card has it.
        repo_id: `USER/NAME`.
        revision: Branch, tag or commit.
        path: The file in the repository.
    """

    spelling: str
    repo_id: str
    revision: str
    path: str

    @property
    def file_name(self) -> str:
        """What to call the file here."""
        return _plain(self.path)


@dataclass(frozen=True)
class WebFile:
    """A file at an address.

    Attributes:
        spelling: As the card has it.
        url: The address that gives the file itself.
    """

    spelling: str
    url: str

    @property
    def file_name(self) -> str:
        """What to call the file here."""
        return _plain(unquote(urlsplit(self.url).path))


@dataclass(frozen=True)
class DriveFile:
    """A shared file of Google Drive.

    Attributes:
        spelling: As the card has it.
        id: The file's id, or that of a shared folder.
        path: The file in that folder; empty where the id is the file's own.
    """

    spelling: str
    id: str
    path: str

    @property
    def file_name(self) -> str:
        """What to call the file here."""
        return _plain(self.path or self.id)


Source = HubFile | WebFile | DriveFile


def parse(spelling: str) -> Source:
    """Read one source.

    Raises:
        UsageError: If it is spelled in none of the ways there are.
    """
    if hub := _HUB.fullmatch(spelling):
        return HubFile(spelling, hub["repo"], hub["revision"] or "main", hub["path"])
    if drive := _DRIVE.fullmatch(spelling):
        return DriveFile(spelling, drive["id"], drive["path"] or "")
    if spelling.startswith(("https://", "http://")) and urlsplit(spelling).hostname:
        return _web(spelling)
    raise UsageError(f"{spelling!r} is not a source of a file: expected {SPELLINGS}")


def _web(spelling: str) -> Source:
    """Take the addresses that people copy from a browser for the file they show."""
    parts = urlsplit(spelling)
    if parts.hostname in ("dropbox.com", "www.dropbox.com"):
        query = dict(parse_qsl(parts.query)) | {"dl": "1"}
        return WebFile(spelling, parts._replace(query=urlencode(query)).geturl())
    if parts.hostname == "drive.google.com":
        if match := re.match(r"/file/d/([\w-]+)", parts.path):
            return DriveFile(spelling, match[1], "")
        if file_id := dict(parse_qsl(parts.query)).get("id"):
            return DriveFile(spelling, file_id, "")
    return WebFile(spelling, spelling)


def _plain(path: str) -> str:
    """Return a path's last part as a name that any file system takes."""
    name = re.sub(r"[^\w.+-]", "_", path.rstrip("/").rpartition("/")[2])[-120:]
    return name.lstrip(".") or "file"
