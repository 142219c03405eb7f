"""Which images show what, as Revisited Oxford and Paris say it: read, and held to what it must be.

Radenović et al., CVPR 2018. `imlist` and `qimlist` name the database's images and the queries; `gnd` has, for each
query, its box `bbx` and the numbers of the database's images that show the same: `easy`, `hard`, or `junk`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Int64

from carp_eval.data import plain_pickle
from carp_eval.errors import DataError

RELATIONS = ("easy", "hard", "junk")
# Of all lists of all queries together: a shared list, written once, may stand in many places.
MOST_NUMBERS = 10**8
LARGEST_SIDE = 10**6


class Box(NamedTuple):
    """Where in its photograph a query is, in pixels from the upper left corner."""

    left: float
    upper: float
    right: float
    lower: float


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        name: Its photograph.
        box: The part that is searched for.
        easy: Numbers of the database's images that show it clearly.
        hard: Those that show it, but are hard to find.
        junk: Those of which nobody can tell; they count neither way.
    """

    name: str
    box: Box
    easy: Int64[np.ndarray, " easy"]
    hard: Int64[np.ndarray, " hard"]
    junk: Int64[np.ndarray, " junk"]


@dataclass(frozen=True)
class GroundTruth:
    """Which images of a database show what each query shows.

    Attributes:
        path: The file that says so.
        database: Names of the database's images.
        queries: The queries.
    """

    path: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash all that is said, whatever file it was said in."""
        digest = hashlib.sha256("\n".join(self.database).encode())
        for query in self.queries:
            relations = [getattr(query, name).tolist() for name in RELATIONS]
            digest.update(f"\n{query.name} {tuple(query.box)} {relations}".encode())
        object.__setattr__(self, "sha256", digest.hexdigest())


def read(path: Path) -> GroundTruth:
    """Read `gnd_NAME.pkl` or `gnd_NAME.json`.

    Nothing in a pickle is run; see `plain_pickle`.

    Raises:
        DataError: If the file cannot be read, or does not say what the layout asks for.
    """
    content = _json(path) if path.suffix == ".json" else plain_pickle.load(path)
    try:
        return _ground_truth(content, path)
    except _BrokenError as error:
        raise DataError(
            f"{path} is not ground truth as Revisited Oxford and Paris have it: {error}"
        ) from error


class _BrokenError(ValueError):
    """What is wrong with the content of a file."""


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > plain_pickle.LARGEST:
            raise DataError(
                f"{path} is larger than the {plain_pickle.LARGEST:,} bytes that were expected at most"
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def _ground_truth(content: Any, path: Path) -> GroundTruth:
    whole = _mapping(content, ("imlist", "qimlist", "gnd"), "it")
    database, names = (_names(whole[key], key) for key in ("imlist", "qimlist"))
    entries = _list(whole["gnd"], "gnd")
    if not len(names) == len(entries) > 0:
        raise _BrokenError(f"it has {len(names)} queries in qimlist and {len(entries)} entries in gnd")
    budget = MOST_NUMBERS
    queries: list[Query] = []
    for name, entry in zip(names, entries, strict=True):
        queries.append(_query(name, entry, database))
        budget -= sum(len(getattr(queries[-1], relation)) for relation in RELATIONS)
        if budget < 0:
            raise _BrokenError(f"its lists are longer than {MOST_NUMBERS:,} numbers together")
    return GroundTruth(path, database, tuple(queries))


def _query(name: str, entry: Any, database: Sequence[str]) -> Query:
    where = f"the entry of {name}"
    parts = _mapping(entry, ("bbx", *RELATIONS), where)
    box = _list(parts["bbx"], f"bbx in {where}")
    if len(box) != 4 or not all(_is_number(side) and abs(side) < LARGEST_SIDE for side in box):
        raise _BrokenError(f"the box of {name} is four numbers, not {box!r:.80}")
    numbers = {
        relation: _numbers(parts[relation], f"{relation} in {where}", len(database)) for relation in RELATIONS
    }
    together = np.concatenate(list(numbers.values()))
    if len(np.unique(together)) < len(together):
        raise _BrokenError(f"{where} has an image twice, in one of {', '.join(RELATIONS)} or in two")
    for number in np.concatenate([numbers["easy"], numbers["hard"]]).tolist():
        if database[number] == name:
            raise _BrokenError(
                f"the query {name} is an image of the database too, and one to be found: it would find itself. Take it "
                f"out of imlist, or make it junk"
            )
    return Query(name, Box(*map(float, box)), **numbers)


def _mapping(value: Any, keys: Sequence[str], what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _BrokenError(
            f"{what} is a {type(value).__name__}; a dictionary of {', '.join(keys)} was expected"
        )
    found = cast(dict[Any, Any], value)
    missing = [key for key in keys if key not in found]
    if missing:
        there = ", ".join(sorted(map(str, found))[:10])
        raise _BrokenError(f"{what} has no {', '.join(missing)}, only {there or 'nothing'}")
    return found


def _list(value: Any, what: str) -> Sequence[Any]:
    try:
        value = plain_pickle.plain(value)
    except ValueError as error:
        raise _BrokenError(f"{what}: {error}") from error
    if not isinstance(value, list | tuple):
        raise _BrokenError(f"{what} is a {type(value).__name__}; a list was expected")
    return [plain_pickle.plain(item) for item in cast(Sequence[Any], value)]


def _names(value: Any, what: str) -> tuple[str, ...]:
    names = _list(value, what)
    seen: set[str] = set()
    for name in names:
        # A name becomes a path: one that leads out of the folder would read whatever it likes.
        if (
            not isinstance(name, str)
            or not name.isprintable()
            or {"..", ""} & set(name.split("/"))
            or "\\" in name
        ):
            raise _BrokenError(f"{what} has {name!r:.80}; names of images in jpg were expected, without .jpg")
        if name in seen:
            raise _BrokenError(f"{what} has {name} twice")
        seen.add(name)
    if not names:
        raise _BrokenError(f"{what} is empty")
    return tuple(names)


def _numbers(value: Any, what: str, count: int) -> Int64[np.ndarray, " image"]:
    numbers = _list(value, what)
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < count:
            raise _BrokenError(
                f"{what} has {number!r:.80}; numbers of images, from 0 to {count - 1}, were expected"
            )
    return np.array(numbers, dtype=np.int64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
