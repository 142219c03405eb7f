"""From what the user spells to a data set: a table's name, `folder:PATH`, `images:PATH`, `wds:PATH` or `hf:...`."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from carp_eval import files, plugins
from carp_eval.data import digits, plugged
from carp_eval.data.folders import FolderSource, PhotographSource
from carp_eval.data.images import Images
from carp_eval.data.layouts.known import LAYOUTS, LAYOUTS_ON_BASE
from carp_eval.data.shards import ShardSource
from carp_eval.data.source import Source, resolve
from carp_eval.data.table import TABLE, Row, how_to_get
from carp_eval.errors import DataError, PluginError, UnknownNameError, UsageError

_SCHEMES = ("folder", "images", "wds", "hf", "hf-stream")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_OPTIONS = ("config", "image", "label")
_STREAM_OPTIONS = ("config", "image", "rows", "buffer")


def open_images(
    spelling: str, split: str, *, data_root: Path | None = None, download: bool = False
) -> Images:
    """Open one split of a data set.

    Args:
        spelling: A name in the table; `NAME:PATH`, a folder in the native layout of that data set, whole or not;
            `folder:PATH`, a folder of class folders, with or without split folders above them; `images:PATH`, all
            images under a folder, without classes; `wds:PATH`, WebDataset shards: a folder of tar files, or a pattern
            such as `train-{0000..0012}.tar` (see `shard_paths.find`); a name that another package brings;
            `hf:USER/NAME[@REVISION]` or `hf:FOLDER`, what the library `datasets` reads, to which
            `?image=COLUMN&label=COLUMN&config=NAME` may be added where it cannot be told which is meant;
            `hf-stream:` in place of `hf:`, the same read while it is trained on, and never held, with
            `?rows=NUMBER&buffer=NUMBER`: images of the split, and those that wait to be drawn by chance.
        split: The split, by its name or an alias of it (see `source.resolve`).
        data_root: Where to look first for data sets of the table, each in a folder of its name.
        download: Whether to download a data set of the table that is not found. A Hub id always may be.

    Raises:
        UsageError: If the spelling means nothing.
        DataError: If the data set is not there or is broken; the message says how to get it.
    """
    return locate(spelling, data_root=data_root, download=download).open(split)


def split_names(spelling: str, *, data_root: Path | None = None) -> tuple[str, ...]:
    """List the splits of a data set, spelled as for `open_images`."""
    return locate(spelling, data_root=data_root).splits


def locate(spelling: str, *, data_root: Path | None = None, download: bool = False) -> Source:
    """Find a data set, spelled as for `open_images`, and its splits."""
    scheme, colon, rest = spelling.partition(":")
    if not colon:
        return _named(spelling, data_root=data_root, download=download)
    # A layout that several data sets share opens by its own name too: `landmarks:PATH`.
    row = TABLE.get(scheme) or next((row for row in TABLE.values() if row.layout == scheme), None)
    if scheme not in _SCHEMES and not (row and row.layout):
        raise UnknownNameError("kind of data set", f"{scheme}:", _schemes())
    if not rest:
        raise UsageError(
            f"{spelling!r} names nothing after the colon; expected a path, as in {scheme}:/path/to/folder"
        )
    if scheme == "folder":
        return FolderSource(spelling, Path(rest).expanduser())
    if scheme == "images":
        return PhotographSource(spelling, Path(rest).expanduser())
    if scheme == "wds":
        return ShardSource(spelling, rest)
    if row:
        return _native(spelling, row, Path(rest).expanduser(), data_root)
    return _hub(spelling, rest)


def _schemes() -> list[str]:
    """List what may stand before the colon of a spelling, with the colon."""
    native = {name for key, row in TABLE.items() if row.layout for name in (key, row.layout)}
    return [f"{name}:" for name in (*_SCHEMES, *sorted(native))]


def local_copy(name: str, *, data_root: Path | None = None) -> Path | None:
    """Return the folder in which a data set of the table is found, not counting the Hub's cache; None if in none."""
    return next(_copies(name, TABLE[name], data_root), None)


class _EmbeddedSource(Source):
    """The digits that come with the package."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.splits = digits.SPLITS

    def open_split(self, split: str) -> Images:
        return digits.open_split(split)


class NamedSource(Source):
    """A copy of a data set of the table, held to what the table says of it.

    Attributes:
        row: What the table says.
        place: Where the copy is, as the user could spell it to take it as it is.
        folder: Its folder; None where it is in the Hub's cache.
    """

    def __init__(self, name: str, row: Row, copy: Source, place: str, folder: Path | None) -> None:
        """Match the copy's splits to the table's.

        Args:
            name: The data set.
            row: What the table says.
            copy: What was found.
            place: Where, as the user could spell it to take it as it is.
            folder: Its folder; None where it is in the Hub's cache.
        """
        self.name = name
        self.row = row
        self.place = place
        self.folder = folder
        self._copy = copy
        self._split_of: dict[str, str] = {}
        for split in row.splits:
            asked = row.hub.splits.get(split, split) if row.hub and split not in copy.splits else split
            try:
                found = resolve(asked, copy.splits, name=name)
            except DataError:
                continue
            if found not in self._split_of.values():
                self._split_of[split] = found
        self.splits = tuple(self._split_of)

    def open(self, split: str) -> Images:
        """Open one split, by its name or an alias; one that the copy lacks is not another by an alias.

        Raises:
            DataError: If there is no such split, or the copy lacks it.
        """
        if split in self.row.splits and split not in self.splits:
            raise DataError(
                f"{self.place} has {', '.join(self.splits) or 'no split'}, but not {split}: the copy of {self.name} is "
                f"incomplete. To get the whole:\n{how_to_get(self.name.partition(':')[0])}"
            )
        return super().open(split)

    def open_as_it_is(self, split: str) -> Images:
        """Open one split, however many images it has."""
        images = self._copy.open_split(self._split_of[split])
        images.split = split
        return images

    def open_split(self, split: str) -> Images:
        """Open one split, which must have as many images and classes as the table says."""
        images = self.open_as_it_is(split)
        expected, classes = self.row.splits[split], self.row.num_classes
        if len(images) != expected or len(images.class_names) not in (classes, 0):
            came = f"{len(images)} images of {len(images.class_names)} classes in {split}"
            raise DataError(
                f"{self.place} has {came}, but {self.name} has {expected} of {classes}: the copy is incomplete, or of "
                f"something else. To use it as it is, say {self.place}; to get the whole:\n{how_to_get(self.name)}"
            )
        return images


class _Part(Source):
    """A folder in a data set's native layout, whatever part of it is there; its images say how much."""

    def __init__(self, copy: Source, row: Row) -> None:
        self.name = copy.name
        self.splits = copy.splits
        self._copy = copy
        self._whole = row.splits

    def open_split(self, split: str) -> Images:
        images = self._copy.open_split(split)
        for name, size in self._whole.items():
            if _means(name, self) == split and len(images) < size and not images.partial:
                images.partial = f"{len(images):,} of {size:,} {name} images"
        return images


def _means(name: str, source: Source) -> str:
    """Return what a source calls a split of the table; empty if it has none that is surely the same."""
    try:
        found = resolve(name, source.splits, name=source.name)
    except DataError:
        return ""
    return "" if name == "test" and found != "test" else found


def _named(name: str, *, data_root: Path | None, download: bool) -> Source:
    """Find a data set of the table: embedded, in a folder, in the Hub's cache, or downloaded now."""
    row = TABLE.get(name)
    if row is None:
        brought = _brought(name, data_root=data_root)
        if brought is not None:
            return brought
        if "/" in name or Path(name).exists():
            raise UsageError(
                f"{name!r} is not a data set's name; say folder:{name} for class folders, images:{name} for images "
                f"without classes, wds:{name} for tar shards, hf:{name} for Parquet"
            )
        raise UnknownNameError("data set", name, (*TABLE, *plugins.names(plugins.DATASETS)))
    if row.embedded:
        return _EmbeddedSource(name)
    for place in _copies(name, row, data_root):
        return _copy(name, row, place, data_root)
    if row.hub:
        # Four seconds of import, which only these data sets need.
        from carp_eval.data import hub

        columns: dict[str, Any] = {"image": row.hub.image, "label": row.hub.label}
        source = hub.load_cached(name, row.hub.id, **columns)
        if source is None and download:
            source = hub.load(name, row.hub.id, strict=False, **columns)
        if source is not None:
            return NamedSource(name, row, source, f"hf:{row.hub.id}", None)
    elif download and row.torchvision:
        from carp_eval.data import pixels

        pixels.download(row.torchvision.kind, files.home() / "data", splits=row.torchvision.splits)
        return _named(name, data_root=data_root, download=False)
    looked = ", ".join(str(folder) for folder in _folders(name, row, data_root))
    raise DataError(
        f"{name} is not on this machine (looked in {looked}). To get it, do one of:\n{how_to_get(name)}"
    )


def _folders(name: str, row: Row, data_root: Path | None) -> Iterator[Path]:
    """Yield the folders that may be a copy of a data set, first the one that counts most."""
    chosen = os.environ.get(row.environment) if row.environment else None
    if chosen:
        yield Path(chosen).expanduser()
    for root in (data_root, files.home() / "data"):
        if root is not None:
            yield root / name


def _copies(name: str, row: Row, data_root: Path | None) -> Iterator[Path]:
    """Yield the folders that are there and may be a copy of a data set, first the one that counts most."""
    inside = (*((row.torchvision.folder,) if row.torchvision else ()), *row.folders)
    for folder in _folders(name, row, data_root):
        # What an archive unpacks to lies in the folder or, where several data sets share a root, beside it.
        for place in (*(root / part for root in (folder, folder.parent) for part in inside), folder):
            if place.is_dir():
                yield place


def _copy(name: str, row: Row, place: Path, data_root: Path | None) -> Source:
    origin = row.torchvision
    if origin and origin.packed and place.name == origin.folder:
        from carp_eval.data import pixels

        source = pixels.TorchvisionSource(name, origin.kind, place.parent, tuple(row.splits))
        return NamedSource(name, row, source, str(place), place)
    if row.layout:
        source = _read(name, row, place, data_root)
        if source is not None:
            return NamedSource(name, row, source, f"{name}:{place}", place)
        if row.native_only:
            raise DataError(f"{place} is not laid out as {name} is; do one of:\n{how_to_get(name)}")
    if any(place.rglob("*.parquet")):
        from carp_eval.data import hub

        columns: dict[str, Any] = {"image": row.hub.image, "label": row.hub.label} if row.hub else {}
        source = hub.load(name, str(place.absolute()), strict=False, **columns)
        return NamedSource(name, row, source, f"hf:{place}", place)
    return NamedSource(name, row, FolderSource(name, place), f"folder:{place}", place)


def _native(spelling: str, row: Row, place: Path, data_root: Path | None) -> Source:
    """Read a folder in a data set's native layout, whatever part of it is there."""
    if not place.is_dir():
        raise DataError(f"{spelling}: there is no folder {place}")
    source = _read(spelling, row, place, data_root)
    if source is None:
        name = spelling.partition(":")[0]
        raise DataError(
            f"{place} is not in the layout in which {name} is distributed; "
            f"for class folders say folder:{place}, for Parquet hf:{place}"
        )
    return _Part(source, row) if TABLE.get(spelling.partition(":")[0]) is row else source


def _read(name: str, row: Row, place: Path, data_root: Path | None) -> Source | None:
    """Have the reader of a data set's native layout look at a folder; None if it is in another layout."""
    if row.layout in LAYOUTS_ON_BASE:
        assert row.base is not None
        base = partial(_named, row.base, data_root=data_root, download=False)
        return LAYOUTS_ON_BASE[row.layout](name, place, base)
    return LAYOUTS[row.layout](name, place)


def _hub(spelling: str, rest: str) -> Source:
    """Find what `hf:` or `hf-stream:` names: a local folder, or a Hub id with its revision."""
    from carp_eval.data import hub

    stream = spelling.startswith("hf-stream:")
    address, _, query = (rest, "", "") if Path(rest).expanduser().is_dir() else rest.partition("?")
    options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    for option, value in options.items():
        known = _STREAM_OPTIONS if stream else _HUB_OPTIONS
        if option not in known:
            raise UnknownNameError(f"option of {address}", option, known)
        if option in ("rows", "buffer"):
            if not value.isdecimal() or not int(value):
                raise UsageError(f"{spelling}: {option} is a number from 1 on, not {value!r}")
            options[option] = int(value)
    folder = Path(address).expanduser()
    hub_id, _, revision = address.partition("@")
    if not folder.is_dir() and (folder.is_file() or not _HUB_ID.fullmatch(hub_id)):
        came = "is a file" if folder.is_file() else "is neither"
        raise DataError(f"{spelling}: expected a folder or a Hub id USER/NAME[@REVISION]; {address} {came}")
    where = (str(folder.absolute()), None) if folder.is_dir() else (hub_id, revision or None)
    if stream:
        from carp_eval.data import streaming

        return streaming.StreamSource(spelling, where[0], revision=where[1], **options)
    return hub.load(spelling, where[0], revision=where[1], **options)


def _brought(name: str, *, data_root: Path | None) -> Source | None:
    """Find a data set that another package brings, and its splits; None if none does.

    Raises:
        PluginError: If its package does not work.
    """
    brought = plugged.plugin(name)
    if brought is None:
        return None
    source = plugins.resolve(plugins.DATASETS, name, brought.open)(name, data_root)
    if not isinstance(source, Source):
        raise PluginError(
            f"{brought.open} must return a {Source.__module__}.{Source.__name__} and gave a {type(source).__name__}: "
            f"the package that brings the data set {name} is broken"
        )
    return source
