"""What the files of a run tell: how it stands, and what it has logged.

Read without what trains, which takes seconds to import.
"""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from carp_eval.cards import loading
from carp_eval.errors import CardError

STATE, LOG = "run.json", "log.jsonl"
STATES = frozenset({"running", "finished", "interrupted", "failed"})


def state(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what a run's `run.json` says, and what is wrong with it."""
    path = folder / STATE
    if not path.is_file():
        return {}, ()
    try:
        return loading.read_json(path), ()
    except CardError as error:
        return {}, (str(error),)


def log(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's log; lines that a crash cut short are left out."""
    try:
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    entries: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def stands(folder: Path, told: Mapping[str, Any]) -> str:
    """Return a run's state: as it wrote it, or `gone` where it wrote that it runs and no process does.

    A run has its log open. Whether one does can be told of one's own processes, on the machine that it runs on.
    """
    written = told.get("state")
    if written not in STATES:
        return "not told"
    if written != "running" or told.get("host") != platform.node():
        return str(written)
    path = folder / LOG
    if not path.is_file() or not _can_tell(path):
        return str(written)
    return "running" if _is_open(path.resolve()) else "gone"


def heard(folder: Path) -> datetime:
    """Return when a run last wrote anything."""
    written = [path for path in (folder / STATE, folder / LOG) if path.exists()] or [folder]
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in written), UTC)


def _can_tell(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()


def _is_open(path: Path) -> bool:
    for process in psutil.process_iter():
        try:
            if any(Path(file.path) == path for file in process.open_files()):
                return True
        except (psutil.Error, OSError):
            # Another user's, or one that has just ended.
            continue
    return False
