"""Files on their way to the Hub, counted as they are read."""

import io
import logging
import os
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

Progress = Callable[[int, int], None]


class CountedFile(io.BufferedIOBase):
    """A file that is opened for each read and knows how far it was read.

    A push may hold hundreds of files: none stays open. And because it is no path, the Hub's client sends it by LFS, one
    object after another, whether hf_xet is installed or not: what was sent counts in bytes, and an object that arrived
    is not sent again.

    Attributes:
        furthest: The bytes read so far since `watch`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.furthest = 0
        self._size = path.stat().st_size
        self._position = 0
        self._tell: Callable[[], None] | None = None

    def watch(self, tell: Callable[[], None]) -> None:
        """Call a function after each read from now on."""
        self.furthest, self._tell = 0, tell

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read anew."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to another place."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, all that are left where no number is given."""
        with self.path.open("rb") as file:
            file.seek(self._position)
            content = file.read(-1 if size is None else size)
        self._position += len(content)
        if self._tell is not None:
            self.furthest = max(self.furthest, self._position)
            self._tell()
        return content


@contextmanager
def quietly() -> Generator[None]:
    """Keep the client from warning of what is meant so (LFS, Parquet beside a model), and its bars out of ours."""
    log = logging.getLogger("huggingface_hub._commit_api")
    level, barred = log.level, are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        log.setLevel(logging.ERROR)
        if not barred:
            disable_progress_bars()
        try:
            yield
        finally:
            log.setLevel(level)
            if not barred:
                enable_progress_bars()
