"""A file over HTTP that goes on where it stopped, whatever stopped it.

What came so far lies in a `.part` file, and beside it what the server said the file was. It goes on only with the
same file: the server is asked for the rest on that condition (If-Range), and what it answers is compared again.
"""

import errno
import re
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import requests
from pydantic import BaseModel, ConfigDict, ValidationError

from carp_eval import files
from carp_eval.checkpoints.downloads.asking import BROKEN, PassingError, Request, ask, reason
from carp_eval.errors import CheckpointError, StorageError

# In a row, without a byte between them; fewer where nobody was there from the start.
ATTEMPTS = 6
ATTEMPTS_UNHEARD = 3
FIRST_WAIT = 1.0
LONGEST_WAIT = 120.0
SECONDS_BETWEEN_TOLD = 0.1
# Small: what a broken connection loses of a piece is fetched again.
_PIECE_BYTES = 32 * 1024

Progress = Callable[[int, int], None]
Tell = Callable[[str], None]


class Told(BaseModel):
    """What a server said of a file.

    Attributes:
        etag: Its version; empty where the server names none.
        modified: Its date, for servers that tell that alone.
        total: Its bytes; 0 where they were not told.
        sha256: Its hash, which the Hub tells of large files; empty elsewhere.
    """

    model_config = ConfigDict(frozen=True)

    etag: str = ""
    modified: str = ""
    total: int = 0
    sha256: str = ""

    @property
    def validator(self) -> str:
        """What If-Range may carry: no weak version, by which bytes may differ."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def differs(self, other: "Told") -> bool:
        """Tell whether another answer is of another file."""
        if self.total and other.total and self.total != other.total:
            return True
        if self.etag and other.etag:
            return self.etag != other.etag
        return bool(self.modified and other.modified) and self.modified != other.modified


def download(
    request: Request,
    part: Path,
    *,
    size: int | None = None,
    hash_is_known: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Told:
    """Fetch a file into `part`, going on after the bytes that are there.

    Args:
        request: What to ask for.
        part: Where the bytes go; beside it lies what the server said, until the caller moves the whole file away.
        size: Bytes that are expected, None if nobody knows.
        hash_is_known: Whether the caller compares a hash afterwards. A server that names no version of its file is
            asked to go on only then.
        progress: Told how many bytes came, of how many (0 where it is not known).
        tell: Told in words what it waits for.

    Raises:
        CheckpointError: If the server refuses, or has another file than expected, or does not answer in the end.
        StorageError: If the disk is full or refuses; what came is kept.
    """
    files.make_folder(part.parent)
    failures, heard = 0, False
    with requests.Session() as session:
        while True:
            before = _length(part)
            try:
                return _attempt(
                    session, request, part, size=size, hash_is_known=hash_is_known, progress=progress
                )
            except PassingError as passing:
                heard = heard or passing.answered
                failures = 1 if _length(part) > before else failures + 1
                wait = FIRST_WAIT * 2 ** (failures - 1) if passing.wait is None else passing.wait
                if failures == (ATTEMPTS if heard else ATTEMPTS_UNHEARD) or wait > LONGEST_WAIT:
                    asks = f", and wants to be asked again in {wait:.0f} s" if wait > LONGEST_WAIT else ""
                    raise CheckpointError(f"{passing}{asks}{_kept(part)}") from passing
                if tell is not None:
                    tell(f"{passing}; trying again in {wait:.3g} s" if wait else f"{passing}; beginning anew")
                time.sleep(wait)


def look(request: Request) -> Told:
    """Ask for a file and look at the answer alone.

    Raises:
        CheckpointError: If the server refuses, or does not answer at once.
    """
    try:
        with requests.Session() as session, ask(session, request, {}) as answer:
            return _told(answer)
    except PassingError as passing:
        raise CheckpointError(str(passing)) from passing


def forget(part: Path) -> None:
    """Remove a part and what was said of it."""
    part.unlink(missing_ok=True)
    _record(part).unlink(missing_ok=True)


def _attempt(
    session: requests.Session,
    request: Request,
    part: Path,
    *,
    size: int | None,
    hash_is_known: bool,
    progress: Progress | None,
) -> Told:
    known = _remembered(part, hash_is_known=hash_is_known)
    have = _length(part)
    if known.total and have == known.total:
        return known
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and known.validator:
        headers["If-Range"] = known.validator
    with ask(session, request, headers) as answer:
        told = _told(answer)
        if answer.status_code == 206 and (_first_byte(answer) != have or known.differs(told)):
            forget(part)
            raise PassingError("the file there is another than the one that was begun", wait=0.0)
        if answer.status_code == 416:
            forget(part)
            raise PassingError("the server has less of the file than came already", wait=0.0)
        if size is not None and told.total and told.total != size:
            forget(part)
            raise CheckpointError(f"it is another file: {told.total:,} bytes, where {size:,} are expected")
        if answer.status_code == 200:
            # All of it, whatever was asked for: the file has changed, or the server knows no parts.
            have = 0
            forget(part)
            files.write_text(_record(part), told.model_dump_json())
        _check_space(part, told.total - have)
        _write(answer, part, have, told, progress)
    return told


def _write(answer: requests.Response, part: Path, have: int, told: Told, progress: Progress | None) -> None:
    done = have
    last = 0.0
    with _full_disk(part), part.open("ab") as file:
        try:
            # Bytes as they are on the wire, since it is those that are counted and asked for.
            for piece in answer.raw.stream(_PIECE_BYTES, decode_content=False):
                file.write(piece)
                # What a kill leaves is what came.
                file.flush()
                done += len(piece)
                if progress is not None and time.monotonic() - last > SECONDS_BETWEEN_TOLD:
                    last = time.monotonic()
                    progress(done, told.total)
        except BROKEN as error:
            raise PassingError(f"the connection broke: {reason(error)}") from error
    if told.total and done != told.total:
        if done > told.total:
            forget(part)
        raise PassingError(f"the connection broke after {done:,} of {told.total:,} bytes")
    if progress is not None:
        progress(done, done)


def _told(answer: requests.Response) -> Told:
    """Read what an answer says of the file; the Hub says it where it points to its storage."""
    for step in answer.history:
        if linked := step.headers.get("X-Linked-Etag"):
            break
    else:
        linked = answer.headers.get("X-Linked-Etag", "")
    sha256 = linked.strip('"')
    length = answer.headers.get("Content-Length", "")
    if answer.status_code == 206:
        length = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return Told(
        etag=answer.headers.get("ETag", ""),
        modified=answer.headers.get("Last-Modified", ""),
        total=int(length) if length.isdigit() else 0,
        sha256=sha256 if re.fullmatch("[0-9a-f]{64}", sha256) else "",
    )


def _first_byte(answer: requests.Response) -> int:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _remembered(part: Path, *, hash_is_known: bool) -> Told:
    """Return what was said of the part; one that nothing sure is known of is removed."""
    try:
        told = Told.model_validate_json(_record(part).read_bytes())
    except (FileNotFoundError, ValidationError):
        forget(part)
        return Told()
    if not told.validator and not hash_is_known and _length(part) != told.total:
        forget(part)
        return Told()
    return told


def _record(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _kept(part: Path) -> str:
    return f"; the {_length(part):,} bytes that came are kept" if _length(part) else ""


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise StorageError(
            f"{part.parent} has {free / 1e9:.2f} GB free and {needed / 1e9:.2f} GB are still to come: "
            "free some space, or set CARP_HOME to another disk, and run the same command again"
        )


@contextmanager
def _full_disk(part: Path) -> Generator[None]:
    try:
        with files.storage_errors(part):
            yield
    except StorageError as error:
        if getattr(error.__cause__, "errno", None) not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        raise StorageError(
            f"the disk took no more{_kept(part)}: free some space, or set CARP_HOME to another disk, "
            f"and run the same command again, which goes on from there ({error})"
        ) from error
