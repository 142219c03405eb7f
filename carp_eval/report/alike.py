"""Whether two results can be held against each other: the same images, judged in the same way."""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carp_eval.checkpoints import runs
from carp_eval.report.found import BESIDE_A_RUN, Found
from carp_eval.results import Result

# What a card says in words moves no score.
WORDS = frozenset({"summary", "source"})
SHOWN_OF_A_HASH = 12
SCORED = "scored images"


@dataclass(frozen=True)
class Differs:
    """A condition that two results do not share.

    Attributes:
        what: The condition.
        first: What it is for the first.
        second: What it is for the second.
    """

    what: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.what}: {self.first} and {self.second}"


def differences(first: Result, second: Result) -> list[Differs]:
    """Return what keeps two results from being compared; what tells a result's own scores apart does not."""
    if first.protocol != second.protocol:
        # Whatever else differs follows from it.
        return [Differs("protocol", first.protocol, second.protocol)]
    told = told_by_scores(first) | told_by_scores(second)
    one, other = (conditions_of(result, without=told) for result in (first, second))
    return [
        Differs(name, _shown(name, first, one), _shown(name, second, other))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def conditions_of(result: Result, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return what a result's scores depend on beside the model: protocol, images, and each value of its card.

    Args:
        result: The result.
        without: Keys of the card that do not matter.
    """
    card = {key: value for key, value in result.card.items() if key not in WORDS and key not in without}
    named = {"kind", "variant"}
    return {
        "protocol": result.protocol,
        "variant": result.variant,
        **_images(result),
        "near-duplicates left out": result.dropped_leaks,
        **{key: value for key, value in _flat(card) if key not in named},
    }


def told_by_scores(result: Result) -> set[str]:
    """Return the keys of a card whose values tell the result's own scores apart: each value of `k` has its own."""
    keys = {key for score in result.scores for key in score.settings}
    return keys | {f"{key}s" for key in keys}


def pairs(first: Sequence[Found], second: Sequence[Found]) -> tuple[list[tuple[Found, Found]], list[str]]:
    """Match the results of two models that can be compared, the newest of each kind.

    Args:
        first: One model's, the newest first.
        second: The other's.

    Returns:
        The pairs, by protocol; and of every other result of the first, why it has no partner.
    """
    matched: list[tuple[Found, Found]] = []
    alone: list[str] = []
    for one in first:
        if any(not differences(one.result, other.result) for other, _ in matched):
            continue
        partner = next((other for other in second if not differences(one.result, other.result)), None)
        if partner is not None:
            matched.append((one, partner))
            continue
        nearest = min(second, key=lambda other: _distance(one.result, other.result), default=None)
        alone.append(_why(one, nearest))
    ordered = sorted(matched, key=lambda pair: (pair[0].result.protocol, pair[0].result.variant))
    return ordered, list(dict.fromkeys(alone))


def is_of(result: Result, *, protocol: str | None, dataset: str | None) -> bool:
    """Tell whether a result is of a protocol, `KIND` or `KIND@VARIANT`, and scored images of a data set.

    Args:
        result: The result.
        protocol: None for any.
        dataset: A name, also of a copy elsewhere that was spelled `NAME:PATH`, or the whole spelling; None for any.
    """
    names = (result.protocol, f"{result.protocol}@{result.variant}")
    spelled = result.query_dataset
    return (protocol is None or protocol in names) and dataset in (None, spelled, spelled.partition(":")[0])


def title(result: Result) -> str:
    """Return what a result is of, without its model: `knn@dino on digits`."""
    data = result.query_dataset
    learnt = "" if data == result.dataset else f", learnt from {result.dataset}"
    return f"{result.protocol}@{result.variant} on {data}{learnt}"


def spelling(found: Found) -> str:
    """Return how a result's model can be named to `-m`: a run by its folder."""
    folder = found.path.parent.parent
    is_run = found.path.parent.name == "results" and (folder / runs.RECIPE).is_file()
    return str(folder) if is_run and not found.result.model.startswith(BESIDE_A_RUN) else found.result.model


def command_for(found: Found, model: str) -> str:
    """Return the command that judges another model as this one was."""
    result = found.result
    words = shlex.split(result.command) if _can_be_split(result.command) else []
    if words[1:2] != ["eval"] or words[2:3] == ["suite"]:
        return f"carp eval {result.protocol} --variant {result.variant} -d {shlex.quote(result.dataset)} -m {model}"
    kept: list[str] = []
    skip = False
    for word in words[1:]:
        if not skip and not word.startswith("--model=") and word not in ("-m", "--model"):
            kept.append(word)
        skip = not skip and word in ("-m", "--model")
    return shlex.join(["carp", *kept, "-m", model])


def _why(one: Found, nearest: Found | None) -> str:
    name = title(one.result)
    if nearest is None or nearest.result.protocol != one.result.protocol:
        return f"{name}: {one.result.model} alone was judged by {one.result.protocol}"
    told = "; ".join(map(str, differences(one.result, nearest.result)))
    return f"{name}: cannot be compared with {title(nearest.result)}, of {nearest.result.model}: {told}"


def _distance(first: Result, second: Result) -> tuple[bool, bool, int]:
    same = (first.protocol == second.protocol, first.query_dataset == second.query_dataset)
    return not same[0], not same[1], len(differences(first, second))


def _images(result: Result) -> dict[str, str]:
    """Return the hash of each split that a result's scores depend on."""
    scored = result.query_split
    if result.query_dataset != result.dataset:
        scored = f"{result.query_dataset} {scored}"
    return {
        # However a copy of the data set was spelled.
        SCORED if split == scored else f"images of {split}": sha256
        for split, sha256 in result.data.items()
    }


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _shown(name: str, result: Result, conditions: Mapping[str, Any]) -> str:
    value = conditions.get(name)
    if name in _images(result):
        dataset = f"{result.query_dataset} {result.query_split}" if name == SCORED else result.dataset
        return f"{dataset}, {str(value)[:SHOWN_OF_A_HASH]}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not told" if value is None else str(value)


def _can_be_split(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True
