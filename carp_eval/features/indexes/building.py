"""An index being made: trained on a sample, filled part by part, so that a killed one goes on.

All happens in a folder beside the finished index, `.index-ivf.making`, which takes its name once all is there. What is
in it by then: `plan.json`, how it is made; `trained.faiss`; a file for each part of the rows that was added;
`saved.json`, their hashes; `built.json`, once they are merged.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pydantic import ValidationError

from carp_eval import files
from carp_eval.cards.frozen import Frozen
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import Progress
from carp_eval.features.indexes import tuning
from carp_eval.features.indexes.choice import Design
from carp_eval.features.indexes.footprint import BLOCK_ROWS
from carp_eval.features.indexes.mapped import MappedRows
from carp_eval.features.indexes.record import ENGINE, LISTS, Built, FileRecord, content_sha256
from carp_eval.features.indexes.saved import SAVED, Saved, write

PLAN = "plan.json"
BUILT = "built.json"
TRAINED = "trained.faiss"
PART_BYTES = 2**28


class Plan(Frozen):
    """What must be the same for a build to go on.

    Attributes:
        content: Hash of the rows.
        design: How the index is made.
        part_rows: Rows in one part.
        faiss: FAISS's version.
    """

    content: str
    design: Design
    part_rows: int
    faiss: str


def begin(folder: Path, bank: Bank, design: Design, *, memory: int) -> tuple[Plan, bool]:
    """Begin to make an index, or go on with the one that was begun.

    Returns:
        The plan, and whether there was something to go on with.

    Raises:
        StorageError: If the folder cannot be written.
    """
    # Whole blocks: a part has the same rows however often the work is interrupted.
    blocks = max(1, min(PART_BYTES, memory // 8) // max(1, design.code_bytes) // BLOCK_ROWS)
    plan = Plan(
        content=content_sha256(bank), design=design, part_rows=blocks * BLOCK_ROWS, faiss=faiss.__version__
    )
    try:
        begun = Plan.model_validate_json((folder / PLAN).read_bytes())
    except (FileNotFoundError, ValidationError):
        begun = None
    if begun == plan:
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        return plan, True
    with files.storage_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
    files.write_text(files.make_folder(folder) / PLAN, plan.model_dump_json())
    return plan, False


def build(
    folder: Path,
    bank: Bank,
    plan: Plan,
    *,
    bar: Callable[[str], Progress | None],
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """Train the index and fill it, or go on where that was left.

    Args:
        folder: Where it is made.
        bank: The rows.
        plan: How.
        bar: Gives a bar for work of a name.
        say: Is told of files that are damaged, and are made again.

    Raises:
        BankError: If a row is not finite or a shard not readable.
        StorageError: If the disk is full, read-only or closed to us.
    """
    built = _merged(folder, say)
    if built is not None:
        return built
    rows, saved = MappedRows(bank), Saved(folder, say=say)
    if not saved.has(TRAINED):
        before = saved.files.get(TRAINED)
        saved.write(_trained(rows, plan.design), TRAINED)
        if before not in (None, saved.files[TRAINED]):
            # Codes of other centres mean other rows.
            saved.forget(but=TRAINED)
    if plan.design.lists:
        parts = _parts(saved, rows, plan, bar("rows added"))
        sizes, lists = _merge(folder, parts, bar("lists merged"))
        engine = write(_read(folder / TRAINED), folder / ENGINE)
        built = Built(list_sizes=sizes, files={ENGINE: engine, LISTS: lists})
    else:
        index = _read(folder / TRAINED)
        _add(index, rows, 0, len(rows), bar("rows added"))
        built = Built(list_sizes=(), files={ENGINE: write(index, folder / ENGINE)})
    files.write_text(folder / BUILT, built.model_dump_json())
    return built


def _merged(folder: Path, say: Callable[[str], None]) -> Built | None:
    """Return what an earlier run has finished but for its name; None where there is nothing, or it is damaged."""
    try:
        built = Built.model_validate_json((folder / BUILT).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    problems = [file.problem(folder / name, whole=True) for name, file in built.files.items()]
    for problem in filter(None, problems):
        say(f"{problem}; it is made again")
    return None if any(problems) else built


def drop_parts(folder: Path) -> None:
    """Take away what is merged; a build that is stopped after that still goes on."""
    _drop(folder / SAVED, folder / TRAINED, *folder.glob("part-*.faiss"))


def drop_plan(folder: Path) -> None:
    """Take away what tells a build how to go on, once the index has its name."""
    _drop(folder / PLAN, folder / BUILT)


def _drop(*leftovers: Path) -> None:
    for leftover in leftovers:
        with files.storage_errors(leftover):
            leftover.unlink(missing_ok=True)


def _trained(rows: MappedRows, design: Design) -> Any:
    sample, _ = tuning.draw(len(rows), design)
    index: Any = faiss.index_factory(rows.dim, design.factory, faiss.METRIC_L2)
    if design.kind == "ivf-pq":
        # FAISS takes 25 steps over 256 rows a centre: up to ten times as long, for codes that only propose.
        inverted: Any = faiss.downcast_index(faiss.extract_index_ivf(index))
        inverted.pq.cp.niter, inverted.pq.cp.max_points_per_centroid = 10, 64
    index.train(rows.take(sample).numpy())
    return index


def _parts(saved: Saved, rows: MappedRows, plan: Plan, progress: Progress | None) -> list[Path]:
    """Write an index of each part of the rows that is not there yet."""
    paths: list[Path] = []
    for number, start in enumerate(range(0, len(rows), plan.part_rows)):
        stop = min(start + plan.part_rows, len(rows))
        name = f"part-{number:05d}.faiss"
        if not saved.has(name):
            index = _read(saved.folder / TRAINED)
            _add(index, rows, start, stop, progress)
            saved.write(index, name)
        elif progress is not None:
            progress(stop, len(rows))
        paths.append(saved.folder / name)
    return paths


def _add(index: Any, rows: MappedRows, start: int, stop: int, progress: Progress | None) -> None:
    graph = faiss.try_extract_index_ivf(index) is None
    for first, block in rows.blocks(BLOCK_ROWS, start=start, stop=stop):
        if graph:
            index.add(block.numpy())
        else:
            index.add_with_ids(block.numpy(), np.arange(first, first + len(block), dtype=np.int64))
        if progress is not None:
            progress(first + len(block), len(rows))


def _merge(folder: Path, parts: list[Path], progress: Progress | None) -> tuple[tuple[int, ...], FileRecord]:
    """Write all parts' lists to one file, list after list: its codes, then its row numbers.

    FAISS merges into a mapped file, where a full disk ends the process; written in order it is an error like others.

    Returns:
        The lists' sizes, and what was written.
    """
    opened: list[Any] = [faiss.read_index(str(path), faiss.IO_FLAG_MMAP) for path in parts]
    sources: list[Any] = [faiss.extract_index_ivf(part).invlists for part in opened]
    sizes: list[int] = []
    digest, written = hashlib.sha256(), 0
    with files.replacing(folder / LISTS) as beside, beside.open("wb") as file:
        for number in range(sources[0].nlist):
            filled = [(lists, lists.list_size(number)) for lists in sources if lists.list_size(number)]
            sizes.append(sum(size for _, size in filled))
            for content in (
                *(_bytes(lists.get_codes(number), size * lists.code_size) for lists, size in filled),
                *(_bytes(lists.get_ids(number), size) for lists, size in filled),
            ):
                digest.update(content)
                written += file.write(content)
            if progress is not None:
                progress(number + 1, sources[0].nlist)
    return tuple(sizes), FileRecord(size=written, sha256=digest.hexdigest())


def _bytes(pointer: Any, count: int) -> bytes:
    return faiss.rev_swig_ptr(pointer, count).tobytes()


def _read(path: Path) -> Any:
    return faiss.read_index(str(path))
