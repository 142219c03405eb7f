"""What is published without the folders of this machine: of each path its last part, which alone says something."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from carp_eval.checkpoints.publishing import model_index
from carp_eval.data.table import row_of
from carp_eval.results import Result

# In running text only what cannot be anything else is a path: `and/or` is none.
_PATH = re.compile(
    r"""(?<![\w:/\\.~<])(?:[A-Za-z]:(?=[\\/])|~[\w-]*|\.{1,2})?[\\/][^\s'",;()\\/]+[^\s'",;()]*"""
)
_ABSOLUTE = re.compile(r"(?:[A-Za-z]:)?[\\/]|~|\.{1,2}[\\/]")
_SPELLED = re.compile(r"([\w@.-]{2,}):(.*[\\/].*)", re.DOTALL)
# What may have a path behind it, beside the names of data sets.
_KINDS = frozenset({"folder", "images", "timm", "local-dir", "random", "pixels"})


def record(result: Result) -> Result:
    """Return a record of results as others may read it; every number and hash in it is as it was."""
    known = _paths_in(result.dataset, result.query_dataset, result.model)
    cleaned: dict[str, Any] = plain(result.model_dump(mode="json"), known=known)
    cleaned["command"] = command(result.command, known=known)
    cleaned["dataset"] = model_index.public_name(result.dataset)
    cleaned["query_dataset"] = model_index.public_name(result.query_dataset)
    return Result.model_validate(cleaned)


def plain(value: Any, *, known: Sequence[str] = ()) -> Any:
    """Take the folders out of every text in what JSON can hold.

    Args:
        value: A text, a number, or lists and dictionaries of them.
        known: Paths that may lie in texts, with spaces in them too.
    """
    if isinstance(value, str):
        return _text(value, known)
    if isinstance(value, dict):
        return {_text(str(name), known): plain(part, known=known) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, known=known) for part in value]
    return value


def words(text: str) -> str:
    """Take the folders out of running text."""
    return _PATH.sub(lambda match: _last(match[0]), text)


def command(line: str, *, known: Sequence[str] = ()) -> str:
    """Take the folders out of a command line."""
    line = _without(line, known)
    try:
        # Older releases put the words together without quotes, on Windows with backslashes in them.
        parts = shlex.split(line) if "'" in line or "\\" not in line else line.split()
    except ValueError:
        parts = line.split()
    return shlex.join(map(_word, parts))


def _word(word: str) -> str:
    option, equals, value = word.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={_word(value)}"
    spelled = _spelling(word)
    return _last(word) if spelled == word and _is_path(word) else spelled


def _is_path(word: str) -> bool:
    return ("/" in word or "\\" in word) and not re.match(r"[\w@.-]{2,}:", word)


def _text(text: str, known: Sequence[str]) -> str:
    if _ABSOLUTE.match(text) and "\n" not in text:
        return _last(text)
    spelled = _spelling(text)
    if spelled != text:
        return spelled
    return words(_without(text, known))


def _spelling(text: str) -> str:
    """Return a model or a data set, as `-m` and `-d` spell them, by the last part of its path."""
    match = _SPELLED.fullmatch(text)
    if match is None or not _has_path(match[1], text):
        return text
    inner = _spelling(match[2])
    return f"{match[1]}:{inner if inner != match[2] else _last(match[2])}"


def _has_path(kind: str, text: str) -> bool:
    if kind in ("hf", "hf-hub"):
        return model_index.hub_id(f"hf:{text.removeprefix(f'{kind}:')}") is None
    return kind in _KINDS or row_of(text) is not None


def _without(text: str, known: Sequence[str]) -> str:
    for path in sorted(known, key=len, reverse=True):
        text = text.replace(path, _last(path))
    return text


def _paths_in(*spellings: str) -> list[str]:
    paths = [
        spelling.partition(":")[2] if _SPELLED.fullmatch(spelling) else spelling for spelling in spellings
    ]
    return [path for path in paths if _is_path(path)]


def _last(path: str) -> str:
    return path.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or "folder"
