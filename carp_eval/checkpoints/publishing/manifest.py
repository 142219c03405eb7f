"""`carp-files.json`: what a push wrote, so that the next one knows its own files from those of others."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from carp_eval import files
from carp_eval.cards.frozen import Frozen
from carp_eval.checkpoints.publishing.listing import Hashes
from carp_eval.errors import HubError

NAME = "carp-files.json"
VERSION = 1


class Written(Frozen):
    """A file as it was pushed: its bytes, git's name for it and its SHA-256."""

    size: int
    git: str
    sha256: str


class Manifest(Frozen):
    """All files of a push, by path, but this one."""

    version: int = VERSION
    files: dict[str, Written]


def write(folder: Path, local: Mapping[str, Hashes]) -> Path:
    """Write the list of a folder's files into it, and return its path.

    Raises:
        StorageError: If the disk refuses.
    """
    listed = {
        path: {"size": known.size, "git": known.git, "sha256": known.sha256}
        for path, known in sorted(local.items())
    }
    path = folder / NAME
    files.write_text(path, json.dumps({"version": VERSION, "files": listed}, indent=1) + "\n")
    return path


def read(path: Path) -> dict[str, Hashes]:
    """Read what a push wrote.

    Raises:
        HubError: If the file is none of ours, or of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("version") != VERSION:
            raise HubError(
                f"{NAME} is of version {content.get('version')!r}, this release reads {VERSION}: use the release that "
                "pushed it, or a later one"
            )
        known = Manifest.model_validate(content)
    except (ValueError, ValidationError, RecursionError) as error:
        raise HubError(
            f"{NAME} on the Hub is damaged: remove it there, then push with --overwrite"
        ) from error
    return {path: Hashes(each.size, each.git, each.sha256) for path, each in known.files.items()}
