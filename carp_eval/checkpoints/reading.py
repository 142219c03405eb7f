"""Reading weights from files nobody vouches for: no code runs, and nothing is taken on trust."""

import io
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from carp_eval.checkpoints.containers import archives, flat, inert, pickled
from carp_eval.errors import CheckpointError

# A zip file, and one that is empty.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# Dictionaries in dictionaries: VISSL's trunk lies four deep.
_DEEPEST = 32


def read(path: Path, *, member: str = "") -> dict[str, Any]:
    """Read a file of weights: tensors, and the plain values beside them.

    Args:
        path: What torch.save wrote (zip files, and the older pickles), safetensors, or an archive around one of them.
        member: The file inside, where `path` is an archive; empty where it holds only one file of weights.

    Raises:
        CheckpointError: If the file is missing, damaged, no file of weights, or could run code or fill memory.
        StorageError: If there is no room to unpack a member.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; a checkpoint is a file")
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file at {path}")
    try:
        return _read(path, member, inside=False)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(path: Path, member: str, *, inside: bool) -> dict[str, Any]:
    with path.open("rb") as file:
        head = file.read(1024)
    _refuse_other_kinds(head, path)
    archive = archives.is_tar(path) or (head.startswith(_ZIP) and not _is_torch_zip(path))
    if archive:
        if archives.is_tar(path) and archives.legacy_torch(path):
            raise CheckpointError(
                f"{path} was written by a torch older than 0.2, whose format cannot be read safely: "
                "load it with an old torch if you trust it, and save its state_dict again"
            )
        if inside:
            raise CheckpointError(f"{path} is an archive inside an archive; unpack it by hand")
        with tempfile.TemporaryDirectory(prefix="carp-") as folder:
            unpacked = archives.unpack(path, member, Path(folder))
            try:
                return _read(unpacked, "", inside=True)
            except CheckpointError as error:
                raise CheckpointError(
                    str(error).replace(str(unpacked), f"{path}, its member {member}".rstrip())
                ) from error
    if member:
        raise CheckpointError(f"{path} is no archive, so there is no {member!r} inside: leave the member out")
    if path.suffix == ".safetensors" or (flat.looks_flat(head) and not head.startswith(_ZIP)):
        return dict(flat.read(path))
    zipped = head.startswith(_ZIP)
    # A member's file is gone once it was read.
    return _read_torch(path, zipped=zipped, mapped=zipped and not inside)


def _refuse_other_kinds(head: bytes, path: Path) -> None:
    if not head:
        raise CheckpointError(f"{path} is empty: the copy or download broke off; fetch it again")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        title = re.search(rb"<title[^>]*>([^<]*)", head, re.IGNORECASE)
        named = f" ({title[1].decode('utf-8', 'replace').strip()[:80]!r})" if title else ""
        raise CheckpointError(
            f"{path} is a web page{named}, not a checkpoint: the server sent a notice or a login page in its place. "
            "Open the address in a browser, and save the file itself"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, which stands for the file: run `git lfs pull` where it was cloned, or "
            "download the file itself"
        )
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")):
        raise CheckpointError(f"{path} is compressed: unpack it by hand, and name the file inside")


def _is_torch_zip(path: Path) -> bool:
    """Tell a file that torch.save wrote from any other zip archive."""
    with archives.opened_zip(path) as archive:
        names = archive.namelist()
        inside = {name.partition("/")[2] for name in names}
        if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
            raise CheckpointError(
                f"{path} was refused: it is a TorchScript archive, a program. Weights are tensors and plain "
                "values: save the state_dict of the module instead"
            )
        return "data.pkl" in inside


def _read_torch(path: Path, *, zipped: bool, mapped: bool) -> dict[str, Any]:
    asked = _check_declared(path, zipped=zipped)
    known: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (stand_in, name) for name in asked if (stand_in := inert.stand_in(name)) is not None
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(known):
            # Of an unusual pickle, in which a refusal is all that can follow.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (*pickled.DAMAGE, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read ({pickled.first_line(error)}): it is damaged or no PyTorch file; fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    plain = _plain(cast(dict[Any, Any], content), path, {}, deep=0)
    return {str(key): value for key, value in plain.items()}


def _check_declared(path: Path, *, zipped: bool) -> set[str]:
    """Hold what a file's pickles declare against the bytes that are there, and return the names that they ask for."""
    if zipped:
        with archives.opened_zip(path) as archive:
            return _check_zip(archive, path)
    size = path.stat().st_size
    with path.open("rb") as file:
        # The older format is a row of pickles, then the bytes of storages: a mark, a version, the machine, the content,
        # the storages' keys.
        asked: set[str] = set()
        storages: dict[str, int] = {}
        for number in range(5):
            declared = pickled.declared(file, path)
            if number == 0 and declared.value != torch.serialization.MAGIC_NUMBER:
                raise CheckpointError(
                    f"{path} was refused: it is a pickle, but not one that torch.save wrote. Weights are read from "
                    "files of torch.save, or safetensors"
                )
            asked |= declared.asked
            storages.update(declared.storages)
        # Before its bytes, each storage has eight that tell their number.
        needed = file.tell() + sum(storages.values()) + 8 * len(storages)
    if needed > size:
        raise CheckpointError(
            f"{path} is truncated, or declares more than it holds: its tensors need {needed:,} bytes, and it has "
            f"{size:,}; fetch it again"
        )
    return asked


def _check_zip(archive: zipfile.ZipFile, path: Path) -> set[str]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    root = next(iter(entries)).partition("/")[0]
    pickles = [name for name in entries if name.endswith("data.pkl")]
    # Of an archive with a comment, readers may find different listings.
    if pickles != [f"{root}/data.pkl"] or archive.comment:
        raise CheckpointError(
            f"{path} was refused: torch.save writes one data.pkl in one folder and no comment; this zip has "
            f"{', '.join(pickles[:3])}{' and a comment' if archive.comment else ''}"
        )
    packed = next(
        (name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED), None
    )
    if packed is not None:
        raise CheckpointError(
            f"{path} was refused: {packed!r} in it is compressed, which torch.save never does: unpack the zip "
            "and zip it again without compression (zip -0), or fetch the original"
        )
    if entries[pickles[0]].file_size > pickled.LARGEST:
        raise CheckpointError(
            f"{path} was refused: its pickle takes {entries[pickles[0]].file_size:,} bytes, and weights need "
            f"{pickled.LARGEST:,} at most"
        )
    declared = pickled.declared(io.BytesIO(archive.read(pickles[0])), path)
    for key, needed in declared.storages.items():
        entry = entries.get(f"{root}/data/{key}")
        if entry is None or entry.file_size < needed:
            raise CheckpointError(
                f"{path} is damaged, or declares more than it holds: storage {key!r} of {needed:,} bytes has "
                f"{entry.file_size if entry else 0:,} in the file; fetch it again"
            )
    return declared.asked


def _plain(
    content: dict[Any, Any], path: Path, known: dict[int, dict[Any, Any]], *, deep: int
) -> dict[Any, Any]:
    """Copy dictionaries into plain ones: what a file hung on them beside their entries stays behind."""
    if deep > _DEEPEST:
        raise CheckpointError(f"{path} was refused: it lays dictionaries over {_DEEPEST} deep in one another")
    if id(content) in known:
        return known[id(content)]
    plain: dict[Any, Any] = {}
    known[id(content)] = plain
    for key, value in dict.items(content):
        if isinstance(value, dict):
            plain[key] = _plain(cast(dict[Any, Any], value), path, known, deep=deep + 1)
        else:
            plain[key] = value.detach() if isinstance(value, Tensor) else value
    return plain


def fill(module: nn.Module, state: Mapping[str, Any], *, where: str) -> None:
    """Load a state into a module, exactly.

    Raises:
        CheckpointError: If an entry is missing, unexpected or of another shape; the message lists them.
    """
    expected = module.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    wrong_shape = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in state if name not in expected],
        "wrong shape": wrong_shape,
    }
    if any(problems.values()):
        listed = "\n".join(f"  {kind}: {_shorten(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{where} does not fit the network it should fill:\n{listed}")
    module.load_state_dict(tensors)


def _shorten(names: list[str], *, most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
