"""The options that mean the same in every command."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from carp_eval.errors import UsageError


class BranchChoice(StrEnum):
    """Which network of a training."""

    teacher = "teacher"
    student = "student"


class LayerChoice(StrEnum):
    """Which output of a model."""

    pool = "pool"
    projection = "projection"


class DtypeChoice(StrEnum):
    """How a bank stores features."""

    float16 = "float16"
    float32 = "float32"


Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A run folder, a checkpoint file, a name from `carp zoo list`, hf:USER/NAME\\[@REVISION], hf:FOLDER, "
        "timm:NAME, torchvision:NAME\\[/WEIGHTS], random:RECIPE or pixels:RECIPE. Default: the last trained run.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "-d",
        "--dataset",
        metavar="DATASET",
        help="A name from `carp data list`, or NAME:PATH for a copy of it; folder:PATH (class folders), images:PATH "
        "(no classes), hf:USER/NAME or hf:FOLDER. Default: the model's own.",
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Where named data sets lie. Default: data in $CARP_HOME.")
]
Branch = Annotated[
    BranchChoice | None,
    typer.Option(
        "--branch",
        help="Which of two networks, where a model has two. Default: the one that is judged, a training's teacher.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ... Default: a GPU if there is one.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes that load images. Default: from the cores.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images in a forward pass.")]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="Count and list unreadable images instead of stopping at the first."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print machine-readable JSON on standard output, nothing else.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, resolved, and stop.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder for results. Default: the model's run, or ./results."),
]
Dtype = Annotated[DtypeChoice, typer.Option("--dtype", help="How the bank stores features.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of whatever the protocol draws.")]
Queries = Annotated[
    str | None,
    typer.Option(
        "--queries",
        metavar="DATASET",
        help="Score the images of this data set instead, such as imagenet-r; its classes are found by name.",
    ),
]
LeakCheck = Annotated[
    bool,
    typer.Option(
        "--leak-check/--no-leak-check", help="Count scored images that nearly are images to learn from."
    ),
]
DropLeaks = Annotated[bool, typer.Option("--drop-leaks", help="Leave such images out of the scores.")]


class SearchChoice(StrEnum):
    """How a k-NN search finds neighbours."""

    exact = "exact"
    bf16 = "bf16"
    approximate = "approximate"


def memory_size(text: str) -> int:
    """Read an amount of memory, `4GiB`, `500MB` or `4G`, in bytes.

    Raises:
        UsageError: If it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), flags=re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"--memory takes an amount such as 4GiB or 500MB, got {text!r}")
    # As memory is sold, and as `free -h` has it, G is GiB; with a B behind it, it is what the SI says.
    binary = found[3] or not text.strip().upper().endswith("B")
    size = int(float(found[1]) * (1024 if binary else 1000) ** " KMGT".index(found[2].upper() or " "))
    if size < 1:
        raise UsageError(f"--memory takes an amount above zero, got {text!r}")
    return size


Memory = Annotated[
    int | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        parser=memory_size,
        help="Memory that the search may take, such as 4GiB; it moves no score. Default: a quarter of what there is.",
    ),
]
MemoryToIndex = Annotated[
    int | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        parser=memory_size,
        help="Memory that making the index may take, such as 4GiB. Default: a quarter of what there is.",
    ),
]
MemoryToLearn = Annotated[
    int | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        parser=memory_size,
        help="Memory that learning from banked features may take, such as 4GiB; larger ones are read from disk, and "
        "the record says how. Default: a quarter of what there is.",
    ),
]

Part = Annotated[
    str,
    typer.Option(
        "--part", metavar="I/N", help="Only part I, from 0, of N of the bank's shards. Default: all of it."
    ),
]
ExactSearch = Annotated[bool, typer.Option("--exact", help="Leave the index alone and compare every row.")]


def branch_of(choice: BranchChoice | None) -> Literal["teacher", "student"] | None:
    """Return what `--branch` says; None where it is left out."""
    return None if choice is None else choice.value


def quoted(text: str) -> str:
    """Write a text as a value of TOML, as `--set` takes it."""
    return json.dumps(text, ensure_ascii=False)


def leaks(*, check: bool, drop: bool) -> Literal["count", "drop", "ignore"]:
    """Return what two options say together of near-duplicates.

    Raises:
        UsageError: If they are to be left out without being looked for.
    """
    if drop and not check:
        raise UsageError("--drop-leaks needs the leak check: leave --no-leak-check out")
    return "drop" if drop else "count" if check else "ignore"
