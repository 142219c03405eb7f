"""What a file must be before it is taken, and who says so."""

import re
from pathlib import Path
from typing import Literal

from carp_eval import files
from carp_eval.checkpoints.downloads.asking import is_page
from carp_eval.errors import CheckpointError

# Who told the hash of a file: the card, the server (the Hub does), the file's own name, or nobody.
Vouched = Literal["card", "server", "file name", "nobody"]

# The end of torchvision's and of many others' file names: resnet50-0676ba61.pth.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
_WHOSE: dict[Vouched, str] = {
    "card": "the card's",
    "server": "the server's own",
    "file name": "that in the file's name",
}


def check(
    file: Path, *, file_name: str, size: int | None, card_sha256: str, server_sha256: str
) -> tuple[str, Vouched]:
    """Check a file by all that is known of it.

    Args:
        file: The file.
        file_name: What its source calls it.
        size: Its bytes; None where nobody told.
        card_sha256: Its hash by the card; empty where it tells none.
        server_sha256: Its hash by the server; empty where it tells none.

    Returns:
        The file's hash, and the best of those who told it.

    Raises:
        CheckpointError: If the file is a web page, empty, or of another size or hash.
    """
    with file.open("rb") as opened:
        start = opened.read(4096)
    if not start:
        raise CheckpointError("what came is empty")
    if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(is_page(start.decode("utf-8", errors="replace")))
    came = file.stat().st_size
    if size not in (None, came):
        raise CheckpointError(f"{came:,} bytes came, where {size:,} are expected")
    sha256 = files.sha256(file)
    by: Vouched = "nobody"
    told: list[tuple[Vouched, str]] = [
        ("file name", hash_in(file_name)),
        ("server", server_sha256),
        ("card", card_sha256),
    ]
    for who, expected in told:
        if not expected:
            continue
        if not sha256.startswith(expected):
            raise CheckpointError(
                f"what came has the SHA-256 {sha256}; {_WHOSE[who]} is {expected}. It is damaged or another file, and "
                "was removed"
            )
        by = who
    return sha256, by


def hash_in(file_name: str) -> str:
    """Return the start of a hash that a file name carries; digits alone may be a date, and are not taken for one."""
    match = _HASH_IN_NAME.search(file_name)
    return match[1] if match and not match[1].isdigit() else ""
