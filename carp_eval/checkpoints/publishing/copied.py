"""What goes into a published folder, looked at before: records, predictions, linear heads, a bank, plots.

Records are written anew, without the folders of this machine; all else goes as it is.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open

from carp_eval import files
from carp_eval.checkpoints.publishing import model_index, public
from carp_eval.errors import BankError, CheckpointError, UsageError
from carp_eval.models.model import Model
from carp_eval.results import Result

BANK_RECORD = "bank.json"
# What a head's only entry of metadata is called.
ENTRY = "carp"


@dataclass(frozen=True)
class Copies:
    """Files to copy.

    Attributes:
        files: Where each comes from, by its path in the folder.
        contents: What is written in the place of some of them, by path in the folder.
        results: The records among them, by path in the folder.
        probes: What is done to features before each linear head, by path in the folder.
        pictures: The plots' paths in the folder.
    """

    files: dict[str, Path]
    contents: dict[str, bytes]
    results: list[tuple[str, Result]]
    probes: dict[str, str]
    pictures: list[str]

    @classmethod
    def of(
        cls,
        model: Model,
        *,
        bank: Path | None,
        results: Sequence[tuple[Path, Result]],
        pictures: Sequence[Path],
    ) -> "Copies":
        """Look at everything that should go with a model, and say where it goes.

        Raises:
            UsageError: If a result is of another model, or a file is missing.
            CheckpointError: If a linear head is damaged or of another model.
            BankError: If the bank is damaged or of another model.
        """
        found = cls({}, {}, [], {}, [])
        for path, result in sorted(results, key=lambda each: (each[1].finished, each[0].name)):
            found._add_result(path, result, model)
        for path in pictures:
            found.pictures.append(found._add(path, "pictures"))
        if bank is not None:
            for path in _bank_files(bank, model):
                found.files[f"bank/{path.name}"] = path
            told = public.plain(json.loads((bank / BANK_RECORD).read_bytes()))
            found.contents[f"bank/{BANK_RECORD}"] = _json(told)
        return found

    def _add(self, path: Path, folder: str, *, stem: str = "") -> str:
        """Give a file a place of its own, under a name that any file system takes."""
        if not path.is_file():
            raise UsageError(f"there is no file {path} to publish")
        stem = stem or _plain(path.stem)
        place, number = f"{folder}/{stem}{path.suffix}", 2
        while place in self.files:
            place, number = f"{folder}/{stem}-{number}{path.suffix}", number + 1
        self.files[place] = path
        return place

    def _add_result(self, path: Path, result: Result, model: Model) -> None:
        if result.weights_sha256 != model.weights_sha256:
            raise UsageError(
                f"{path} was measured of {result.model} with the weights {result.weights_sha256[:12]}; {model.name} "
                f"has {model.weights_sha256[:12]}: a card tells of one model's results"
            )
        place = self._add(path, "results", stem=_stem(result))
        stem = place.removeprefix("results/").removesuffix(path.suffix)
        cleaned = public.record(result)
        self.contents[place] = _json(cleaned.model_dump(mode="json"))
        self.results.append((place, cleaned))
        if (predictions := path.with_suffix(".parquet")).is_file():
            self._add(predictions, "results", stem=stem)
        if (head := path.with_suffix(".safetensors")).is_file():
            scaling, content = _head(head, model)
            place = self._add(head, "probe", stem=stem)
            self.probes[place], self.contents[place] = scaling, content


def copy(source: Path, target: Path) -> None:
    """Copy a file whole; a bank's shard shares its bytes, where both lie on one file system that can.

    Raises:
        StorageError: If the disk refuses.
    """
    files.make_folder(target.parent)
    # Gigabytes that nobody edits by hand: a bank's files are replaced whole and never written to.
    if source.name.startswith("features-"):
        with contextlib.suppress(OSError):
            os.link(source.resolve(), target)
            return
    with files.replacing(target) as beside:
        shutil.copyfile(source, beside)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _head(path: Path, model: Model) -> tuple[str, bytes]:
    """Return what is done to features before a linear head, and its file; make sure that the head is the model's."""
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            weights, scaling = content["weights_sha256"], content["scaling"]
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no linear head of `carp eval linear`, or is damaged ({error}): evaluate again, or move it away"
        ) from error
    if weights != model.weights_sha256:
        raise CheckpointError(
            f"{path} is a linear head on other weights than those of {model.name}: move it away"
        )
    told = json.dumps(public.plain(content))
    return str(scaling), safetensors.torch.save(tensors, metadata={ENTRY: told})


def _bank_files(bank: Path, model: Model) -> list[Path]:
    """Return a bank's files, after reading every byte of them."""
    record = bank / BANK_RECORD
    try:
        content: Any = json.loads(record.read_bytes())
        weights = content["fingerprint"]["weights_sha256"]
        hashes = {str(shard["file"]): str(shard["sha256"]) for shard in content["shards"]}
    except FileNotFoundError as error:
        raise BankError(f"{bank} is no finished bank: there is no {BANK_RECORD} in it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BankError(f"{record} is damaged: extract the same features again") from error
    if weights != model.weights_sha256:
        raise BankError(f"{bank} is a bank of other weights than those of {model.name}: it cannot go with it")
    for name, sha256 in hashes.items():
        path = bank / name
        if Path(name).name != name or not path.is_file() or files.sha256(path) != sha256:
            raise BankError(
                f"{path} is missing or damaged: its SHA-256 is not the one in {BANK_RECORD}. Extract the same features "
                "again: only damaged shards are redone"
            )
    return [record, *(bank / name for name in hashes)]


def _stem(result: Result) -> str:
    """Name a record as `results.save` does, but for where one's own images lie."""
    stamp = result.finished.replace(":", "").replace("-", "").partition("+")[0]
    data = model_index.public_name(result.query_dataset)
    return _plain(f"{result.protocol}@{result.variant}-{data}-{stamp}")


def _plain(stem: str) -> str:
    return re.sub(r"[^\w.@+=,-]+", "-", stem).strip("-.") or "file"
