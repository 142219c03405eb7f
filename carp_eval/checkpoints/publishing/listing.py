"""What a revision on the Hub holds, file by file, and whether a file here is the same."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from carp_eval.errors import HubError

CHUNK = 1 << 20


@dataclass(frozen=True)
class Kept:
    """A file of a revision.

    Attributes:
        size: Its bytes.
        oid: What git calls it; of a large file, what git calls the pointer to it.
        sha256: Hash of its content, where it is kept by LFS; empty elsewhere.
    """

    size: int
    oid: str
    sha256: str = ""


@dataclass(frozen=True)
class Hashes:
    """What a file here is.

    Attributes:
        size: Its bytes.
        git: What git calls a blob of this content.
        sha256: Hash of its content.
    """

    size: int
    git: str
    sha256: str

    def same(self, kept: Kept) -> bool:
        """Tell whether a file on the Hub has this content."""
        return kept.size == self.size and (
            kept.sha256 == self.sha256 if kept.sha256 else kept.oid == self.git
        )


def tree(api: HfApi, repo: str, commit: str) -> dict[str, Kept]:
    """List the files of a commit, by path.

    Raises:
        HubError: If a path is none that a file may have here.
    """
    found: dict[str, Kept] = {}
    for item in api.list_repo_tree(repo, recursive=True, revision=commit):
        if isinstance(item, RepoFile):
            check_path(item.path, repo=repo)
            found[item.path] = Kept(item.size, item.blob_id, item.lfs.sha256 if item.lfs else "")
    return found


def check_path(path: str, *, repo: str) -> None:
    """Make sure that a path stays inside the folder it is put in, on any system.

    Raises:
        HubError: If it does not.
    """
    parts = path.split("/")
    plain = all(re.fullmatch(r"[^\x00-\x1f\x7f\\]+", part) and part not in (".", "..") for part in parts)
    if not plain or re.match("[A-Za-z]:", path):
        raise HubError(
            f"{repo} holds a file named {path!r}, which would lie outside its folder: it was not fetched"
        )


def hashes(path: Path) -> Hashes:
    """Hash a file as git and LFS do."""
    size = path.stat().st_size
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            git.update(chunk)
            sha256.update(chunk)
    return Hashes(size, git.hexdigest(), sha256.hexdigest())
