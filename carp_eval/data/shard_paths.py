"""Which tar files a spelling means, and which split each belongs to."""

import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from itertools import product
from pathlib import Path

from carp_eval.data.source import SPLIT_NAMES, spellings
from carp_eval.errors import DataError

WHOLE = "train"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST_SHARDS = 1_000_000


def find(spelling: str, place: str) -> dict[str, tuple[Path, ...]]:
    """Find the shards of each split.

    Args:
        spelling: The data set as the user spells it, for messages.
        place: A tar file; a folder of them, or of folders of splits that hold them; a pattern with `*`, `?` or
            `[...]`; or a path with braces, `{0000..0012}` for numbers and `{a,b}` for any names.

    Returns:
        Tar files by split, in the order of their names, or as braces spell them out. Where each file's name or folder
        has a split's name in it, such as `validation-0001.tar`, those are the splits; where none has, all is one.

    Raises:
        DataError: If there is none, one is not there, or they are of a kind that cannot be read.
    """
    if "://" in place or place.startswith("pipe:"):
        raise DataError(
            f"{spelling} is not a path; shards are read from a disk or a mounted folder: download them first, then say "
            f"wds:/path/to/folder"
        )
    paths = _listed(spelling, place)
    for path in paths:
        if path.name.lower().endswith(_COMPRESSED):
            raise DataError(
                f"{path} is compressed: nothing in it can be read without what comes before. Unpack it to a plain "
                ".tar; images are compressed already, and it grows little"
            )
    splits = [_split(path) for path in paths]
    named = {split for split in splits if split}
    if named and not all(splits):
        without = paths[splits.index("")]
        raise DataError(
            f"{spelling} means shards whose names tell a split ({', '.join(sorted(named))}) and others ({without}); "
            "name those of one kind, or put them into folders train and validation"
        )
    found: dict[str, list[Path]] = {}
    for path, split in zip(paths, splits, strict=True):
        found.setdefault(split or WHOLE, []).append(path)
    return {split: tuple(found[split]) for split in sorted(found)}


def _listed(spelling: str, place: str) -> Sequence[Path]:
    path = Path(place).expanduser()
    if path.is_dir():
        paths = [*path.glob("*.tar*"), *path.glob("*.tgz"), *path.glob("*/*.tar")]
        paths = [file for file in paths if file.is_file() and not file.name.startswith(".")]
        if not paths:
            raise DataError(f"{spelling}: there is no .tar file in the folder {path}")
        return sorted(paths)
    if path.is_file():
        return [path]
    spelled_out = list(_expanded(spelling, str(path)))
    if has_magic(str(path)):
        paths = sorted({Path(file) for pattern in spelled_out for file in glob(pattern)})  # noqa: PTH207 - of any path, absolute or not
        if not paths:
            raise DataError(f"{spelling}: no file is called so")
        return paths
    paths = [Path(file) for file in spelled_out]
    gone = [file for file in paths if not file.is_file()]
    if gone:
        raise DataError(
            f"{spelling}: {len(gone)} of {len(paths)} shard{'' if len(paths) == 1 else 's'} not there; the first is "
            f"{gone[0]}. Get {'it' if len(gone) == 1 else 'them'}, or name those that are there"
        )
    return paths


def _expanded(spelling: str, pattern: str) -> Iterator[str]:
    """Spell out every brace: numbers keep the width of the first."""
    parts = _BRACES.split(pattern)
    choices: list[list[str]] = []
    count = 1
    for inside in parts[1::2]:
        numbers = _RANGE.fullmatch(inside)
        if numbers is None:
            choices.append(inside.split(","))
        else:
            first, last = int(numbers[1]), int(numbers[2])
            if not 0 <= last - first < MOST_SHARDS:
                raise DataError(
                    f"{spelling}: {{{inside}}} is no range of shards; the smaller number comes first, as in "
                    "{0000..0012}"
                )
            choices.append([f"{number:0{len(numbers[1])}d}" for number in range(first, last + 1)])
        count *= len(choices[-1])
    if count > MOST_SHARDS:
        raise DataError(f"{spelling} spells out {count:,} shards; more than {MOST_SHARDS:,} is surely a slip")
    for chosen in product(*choices):
        yield "".join(literal + choice for literal, choice in zip(parts[::2], (*chosen, ""), strict=True))


def _split(path: Path) -> str:
    """Return the split that a file's name tells, or else its folder's; empty if neither does."""
    words = re.split(r"[^a-z]+", path.name.lower().removesuffix(".tar"))
    told = [word for word in words if word in SPLIT_NAMES]
    if told and len(set(map(spellings, told))) == 1:
        return told[0]
    return path.parent.name if path.parent.name.lower() in SPLIT_NAMES else ""
