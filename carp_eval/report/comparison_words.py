"""What a comparison is told in, in the terminal as on a page."""

from collections.abc import Sequence

from carp_eval.report.comparison import Compared, Comparison, Disagreement, OfClass
from carp_eval.report.evidence import Evidence
from carp_eval.report.found import Found


def model(found: Found) -> str:
    """Return which model a result is of."""
    result = found.result
    branch = f", {result.branch}" if result.branch else ""
    return f"{result.model}{branch}, weights {result.weights_sha256[:12]} ({found.path.name})"


def skipped(compared: Comparison) -> str:
    """Return how many images one alone has; empty where both have the same."""
    if not any(compared.alone):
        return ""
    return (
        f"A has {compared.alone[0]:,} images that B lacks and B {compared.alone[1]:,} that A lacks, by what was "
        f"skipped: the numbers are of the {compared.common:,} that both have, and not those of the results"
    )


def gain(each: Compared) -> float:
    """Return by how much the second is better, in percent."""
    return each.second - each.first if each.difference is None else each.difference.value


def p_value(value: float | None) -> str:
    """Return a p-value as it is read: no more digits than matter."""
    if value is None:
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def cells(each: Compared) -> list[str]:
    """Return both values, their difference, its interval, the images that one alone has right, and McNemar's p."""
    difference, outcomes = each.difference, each.outcomes
    return [
        f"{each.first:.2f}",
        f"{each.second:.2f}",
        f"{gain(each):+.2f}",
        "" if difference is None else f"{difference.low:+.2f} to {difference.high:+.2f}",
        "" if outcomes is None else f"{outcomes.only_first:,}",
        "" if outcomes is None else f"{outcomes.only_second:,}",
        p_value(each.p_value),
    ]


def why(compared: Comparison) -> list[str]:
    """Return what a reader must know of the scores: those without an interval, those that one alone has, the seeds."""
    told: list[str] = []
    for reason in dict.fromkeys(each.why for each in compared.scores if each.why):
        names = ", ".join(each.name for each in compared.scores if each.why == reason)
        told.append(f"no interval: {names}: {reason}")
    if any(each.name == "cluster_accuracy" and not each.why for each in compared.scores):
        told.append(
            "cluster_accuracy: each model's clusters were matched to classes on the images that are scored"
        )
    first, second = compared.first.result, compared.second.result
    if first.seed != second.seed:
        told.append(f"A was judged with seed {first.seed}, B with seed {second.seed}")
    if compared.unshared:
        told.append(f"one alone has: {', '.join(compared.unshared)}")
    return told


def sides(compared: Comparison) -> list[tuple[str, Sequence[Disagreement]]]:
    """Return the images that each is better on, and what to call them."""
    both = (*compared.first_better, *compared.second_better)
    told = "only {} is right" if all(abs(each.gain) == 1 for each in both) else "{} is better"
    return [(told.format("A"), compared.first_better), (told.format("B"), compared.second_better)]


def class_name(of_class: OfClass, evidence: Evidence) -> str:
    """Return what a class is called."""
    return of_class.name or evidence.name_of(of_class.label)


def answer(each: Disagreement, evidence: Evidence) -> str:
    """Return what an image is and what it was taken for; of other scores by how much they differ."""
    if each.taken_for is not None:
        label, first, second = (evidence.name_of(number) for number in (each.label, *each.taken_for))
        return f"{label}; A {first}, B {second}"
    return evidence.name_of(each.label) if abs(each.gain) == 1 else f"{each.gain * 100:+.1f}"
