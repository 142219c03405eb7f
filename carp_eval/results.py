"""The record of an evaluation: what was scored, what produced it, and what others published."""

import hashlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from carp_eval import files
from carp_eval.cards import loading
from carp_eval.cards.frozen import Frozen
from carp_eval.cards.published import PublishedCard
from carp_eval.errors import DataError

SCHEMA_VERSION = 2
PACKAGES = (
    "carp-eval",
    "torch",
    "torchvision",
    "faiss-gpu",
    "faiss-cpu",
    "scikit-learn",
    "numpy",
    "datasets",
)

Setting = str | int | float


class Published(Frozen):
    """A number someone published that this score may be held against.

    Attributes:
        value: The number, in percent.
        delta: Ours minus theirs.
        document: The document it stands in.
        table: The table of that document.
        variant: The protocol variant the document tells; empty where it does not.
        same_variant: Whether that is the variant that was run; where not, the delta mixes two protocols.
    """

    value: float
    delta: float
    document: str
    table: str
    variant: str
    same_variant: bool


class Score(Frozen):
    """One number.

    Attributes:
        metric: What it measures: `top1`, `nmi`.
        value: In percent, where the metric is a share; `rankme`, `uniformity` and `alignment` are numbers of their own.
        low: Lower end of the 95 % bootstrap interval over test images; None where there is none.
        high: Upper end.
        settings: What tells it from other numbers of the same metric: `{"k": 20}`.
        published: What others published of the same model, data set and metric.
    """

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    settings: dict[str, Setting] = {}
    published: tuple[Published, ...] = ()

    @property
    def name(self) -> str:
        """What it is called: its metric, and its settings behind it."""
        settings = ", ".join(
            f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}"
            for key, value in self.settings.items()
        )
        return f"{self.metric} ({settings})" if settings else self.metric


class Result(Frozen):
    """All that is worth knowing of one evaluation; immutable once written.

    Attributes:
        query_dataset: The data set whose images were scored; mostly the same.
        dropped_leaks: Whether near-duplicates were to be left out; protocols that look for them count `leaks`.
        data: The hash of each split that was opened, by its name.
        banks: The fingerprint of each bank that was used, by its split.
    """

    schema_version: int = SCHEMA_VERSION
    protocol: str
    variant: str
    card: dict[str, Any]
    card_sha256: str
    model: str
    branch: str
    layer: str
    weights_sha256: str
    dataset: str
    query_dataset: str
    bank_split: str
    query_split: str
    dropped_leaks: bool = False
    data: dict[str, str]
    banks: dict[str, str]
    preprocessing: dict[str, Any]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()
    scores: tuple[Score, ...]
    seed: int
    device: str
    seconds: float
    finished: str
    command: str
    versions: dict[str, str]
    git_commit: str
    machine: str


def versions() -> dict[str, str]:
    """Return the versions of what can move a score; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """Return the commit of the checkout this package runs from, `+` behind it if changed; empty elsewhere."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        told = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def circumstances() -> dict[str, Any]:
    """Return what a record says of when, where and with what it was made."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": f"{platform.system()} {platform.machine()}, {platform.processor() or 'unknown processor'}",
    }


def published_for(
    tables: Sequence[PublishedCard],
    score: Score,
    *,
    models: Collection[str],
    protocol: str,
    variant: str,
    dataset: str,
    splits: Collection[str],
) -> tuple[Published, ...]:
    """Return what others published of the same model, protocol, data set, metric and settings.

    Documents that disagree all stand. A number whose document tells another variant, or none, is
    returned and marked.

    Args:
        tables: What was published.
        score: Our number.
        models: Every name under which the tables have the model.
        protocol: The kind of protocol.
        variant: Which of its variants was run.
        dataset: The data set, as the data table names it.
        splits: Every name of the split that was scored.
    """
    found: list[Published] = []
    for table in tables:
        for row in table.rows:
            if row.model not in models:
                continue
            for name, value in row.values.items():
                column = table.columns[name]
                same = (column.protocol, column.dataset, column.metric) == (protocol, dataset, score.metric)
                same = same and column.split in splits
                if same and all(score.settings.get(key) == known for key, known in column.settings.items()):
                    found.append(
                        Published(
                            value=value,
                            delta=round(score.value - value, 4),
                            document=table.document,
                            table=table.table,
                            variant=column.variant or "",
                            same_variant=column.variant == variant,
                        )
                    )
    return tuple(found)


def save(result: Result, folder: Path, *, predictions: Mapping[str, Any], head: bytes | None = None) -> Path:
    """Write a record, its per-image predictions beside it, and the head that made them.

    Args:
        result: The record.
        folder: Where results of this model go.
        predictions: Columns of equal length, one row per query image.
        head: A safetensors file's content; None where no single head was scored.

    Returns:
        The record's path; the predictions have the same name, ending in `.parquet`, the head ending in `.safetensors`.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    stamp = result.finished.replace(":", "").replace("-", "").partition("+")[0]
    scored = result.query_dataset
    dataset = "".join(c if c.isalnum() or c in "-_." else "-" for c in scored).strip("-.")[-60:]
    stem = f"{result.protocol}@{result.variant}-{dataset}-{stamp}"
    # Two that end in the same second must not find the same name free.
    lock = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    with files.locked(files.home() / "locks" / lock):
        number, name = 2, stem
        while (folder / f"{name}.json").exists():
            name, number = f"{stem}-{number}", number + 1
        path = folder / f"{name}.json"
        # All are on the disk before any has its name: a disk that fills up leaves none.
        with ExitStack() as whole:
            record = whole.enter_context(files.replacing(path))
            beside = whole.enter_context(files.replacing(folder / f"{name}.parquet"))
            if head is not None:
                # safetensors' own writer hides the system's error numbers, by which a full disk is told from others.
                whole.enter_context(files.replacing(folder / f"{name}.safetensors")).write_bytes(head)
            record.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
            pq.write_table(pa.table(dict(predictions)), beside)
    return path


def load(path: Path) -> Result:
    """Read a record.

    Raises:
        DataError: If the file is not a record of this version.
        CardError: If it cannot be read, or lacks something.
    """
    content = loading.read_json(path)
    if content.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path} is not a result of schema version {SCHEMA_VERSION}")
    return loading.check(Result, content, where=str(path))
