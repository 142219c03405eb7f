"""What produced each number, and the command that makes it again."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carp_eval.report import alike
from carp_eval.report.found import Found
from carp_eval.report.parts.scores import data_of, model_of


@dataclass(frozen=True)
class Origin:
    """How a result came to be.

    Attributes:
        result: Number of the result among those of the page.
        protocol: Kind and variant.
        title: Protocol, model and data set.
        finished: When.
        command: What makes it again.
        facts: What decided it, by name.
        card: The protocol card, as JSON.
        notes: What a reader of the scores must know.
    """

    result: int
    protocol: str
    title: str
    finished: str
    command: str
    facts: dict[str, str]
    card: str
    notes: tuple[str, ...]


def part(found: Sequence[Found]) -> list[Origin]:
    """Say of every result what produced it."""
    return [_origin(number, each) for number, each in enumerate(found)]


def _origin(number: int, each: Found) -> Origin:
    result = each.result
    protocol = f"{result.protocol}@{result.variant}"
    facts = {
        "record": str(each.path),
        "weights sha256": result.weights_sha256,
        "network": f"{result.branch or 'single'}, layer {result.layer}",
        "card sha256": result.card_sha256,
        "learnt from": f"{result.dataset} ({result.bank_split})",
        "scored": f"{result.query_dataset} ({result.query_split})",
        "preprocessing": _pairs(result.preprocessing),
        "counts": _pairs(result.counts),
        "near-duplicates": "left out" if result.dropped_leaks else "",
        "seed": str(result.seed),
        **{f"data, {split}": sha256 for split, sha256 in result.data.items()},
        **{f"bank, {split}": sha256 for split, sha256 in result.banks.items()},
        "versions": _pairs(result.versions),
        "commit": result.git_commit,
        "machine": result.machine,
        "device": result.device,
        "seconds": f"{result.seconds:.1f}",
    }
    return Origin(
        result=number,
        protocol=protocol,
        title=f"{protocol}: {model_of(result)} on {data_of(result)}",
        finished=result.finished,
        command=_command(each),
        facts={name: value for name, value in facts.items() if value},
        card=json.dumps(result.card, indent=1, ensure_ascii=False),
        notes=result.notes,
    )


def _command(found: Found) -> str:
    """Return a command as it is typed: the program by its name, and the model, where it was the last run then."""
    recorded = found.result.command
    try:
        words = shlex.split(recorded)
    except ValueError:
        return recorded
    if not words or Path(words[0]).name not in ("carp", "carp.exe"):
        return recorded
    names_model = any(word in ("-m", "--model") or word.startswith("--model=") for word in words)
    model = [] if names_model or words[1:2] != ["eval"] else ["-m", alike.spelling(found)]
    return shlex.join(["carp", *words[1:], *model])


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
