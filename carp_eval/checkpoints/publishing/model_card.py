"""`README.md` of a published model: what it is, how to use it, what was measured of it and by what."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints.publishing import model_index, usage
from carp_eval.checkpoints.publishing.hub_config import HubRecord
from carp_eval.checkpoints.publishing.markdown import code, escape, link, table
from carp_eval.results import Published, Result

NAME = "README.md"
# Of a recipe, what is said elsewhere on the page, or is no setting.
NO_SETTINGS = frozenset({"version", "summary", "source", "expect", "method"})


@dataclass(frozen=True)
class Contents:
    """What a model card tells of.

    Attributes:
        record: The model, with the list of its files.
        results: What was measured, by the path of its record in the folder.
        recipe: How it was trained, where it was trained by us.
        run: What the run's `run.json` says of that training.
        pictures: Plots, by their paths in the folder.
        probes: What is done to features before each linear head, by the head's path in the folder.
    """

    record: HubRecord
    results: Sequence[tuple[str, Result]] = ()
    recipe: RecipeCard | None = None
    run: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pictures: Sequence[str] = ()
    probes: Mapping[str, str] = field(default_factory=dict[str, str])


def text(contents: Contents) -> str:
    """Return the whole card, the same for the same contents."""
    metadata = model_index.metadata(contents.record, [result for _, result in contents.results])
    parts = [
        f"# {escape(contents.record.name.rpartition('/')[2])}",
        *_what_it_is(contents.record),
        "## Use",
        *usage.sections(contents.record, contents.probes),
        *_results(contents.results),
        *_pictures(contents.pictures),
        *_training(contents),
        *_provenance(contents.results),
        *_licence(contents.record),
    ]
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _what_it_is(record: HubRecord) -> list[str]:
    card, shape, given = record.card, record.trunk, record.input
    trained = f", trained by {escape(record.method)}" if record.method else ""
    trained += f" on {code(record.dataset)}" if record.dataset else ""
    trained += f" for {card.epochs} epochs" if card is not None and card.epochs else ""
    small = shape.architecture == "small"
    network = "carp-eval's small network" if small else f"a {escape(shape.architecture)}"
    if shape.stem == "small" and not small:
        network += " with a stem of 3 x 3 and no max-pool, for small images"
    said = [
        f"An image encoder: {network}{trained}. It turns an image into {record.feature_dim:,} "
        "numbers that tell what is in it; it has no classifier."
    ]
    if card is not None:
        said.append(
            " ".join(filter(None, (escape(card.summary), card.paper and f"Paper: {escape(card.paper)}.")))
        )
        if card.page:
            said.append(link("The authors' page", card.page))
    colours = "grey" if shape.channels == 1 else "RGB"
    rows = [
        ("input", f"{colours}, {given.native_size} x {given.native_size} in training, values in \\[0, 1\\]"),
        ("mean", ", ".join(f"{value:g}" for value in given.mean)),
        ("std", ", ".join(f"{value:g}" for value in given.std)),
        ("features", f"{record.feature_dim:,}, layer {code(record.layer)}"),
        ("network", escape(record.branch) or "the only one"),
        ("weights", f"SHA-256 of names, types, shapes and bytes: {code(record.weights_sha256)}"),
        ("written by", f"carp-eval {escape(record.package_version)}"),
    ]
    return [*said, table(("", ""), rows)]


def _results(results: Sequence[tuple[str, Result]]) -> list[str]:
    if not results:
        return ["## Results", "Nothing was measured before this was published."]
    rows: list[tuple[str, ...]] = []
    for _, result in results:
        for score in result.scores:
            interval = (
                "" if score.low is None or score.high is None else f"{score.low:.2f} to {score.high:.2f}"
            )
            rows.append(
                (
                    code(f"{result.protocol}@{result.variant}"),
                    escape(f"{model_index.data_name(result)} ({result.query_split})"),
                    escape(score.name),
                    f"{score.value:.2f}",
                    interval,
                    "<br>".join(_published(known) for known in score.published),
                    "<br>".join(f"{known.delta:+.2f}" for known in score.published),
                )
            )
    columns = ("protocol", "data", "score", "measured", "95 % interval", "published", "delta")
    told = (
        "In percent, but for `rankme`, `uniformity` and `alignment`. Intervals are of a bootstrap over the scored "
        "images. One protocol's name covers several ways of doing it, so each is a named variant, `protocol@variant`. "
        "A published number is of the same model, data and metric; where its document tells another variant, or none, "
        "that is said, and the delta mixes two protocols."
    )
    return ["## Results", told, table(columns, rows)]


def _published(known: Published) -> str:
    variant = "" if known.same_variant else f"; {known.variant or 'variant not told'}"
    return escape(f"{known.value:.1f} ({known.document}, {known.table}{variant})")


def _pictures(pictures: Sequence[str]) -> list[str]:
    if not pictures:
        return []
    shown = [f"![{escape(path.rpartition('/')[2].partition('.')[0])}]({path})" for path in pictures]
    return ["## Plots", *shown]


def _training(contents: Contents) -> list[str]:
    record, recipe, card = contents.record, contents.recipe, contents.record.card
    if recipe is not None:
        said = [
            f"{escape(recipe.summary)}. The whole recipe is in [recipe.json](recipe.json).",
            _settings(recipe),
        ]
        if recipe.source:
            said.insert(1, f"After: {escape(recipe.source)}")
        made = [f"{name} {value}" for name, value in sorted(dict(contents.run.get("versions") or {}).items())]
        if contents.run.get("finished"):
            made.append(f"started {contents.run['finished']}")
        if contents.run.get("machine"):
            made.append(f"on {contents.run['machine']}")
        return ["## Training", *said, *([f"With {escape(', '.join(made))}."] if made else [])]
    if card is None:
        return ["## Training", "Nobody told how it was trained."]
    rows = [
        ("method", escape(card.method)),
        ("data", code(card.dataset)),
        ("epochs", "not told" if card.epochs is None else str(card.epochs)),
        ("recipe", code(card.recipe) or "not told"),
        (
            "weights from",
            "<br>".join(code(source) for source in card.weights.sources) or escape(card.weights.by_hand),
        ),
        ("hash of that file", code(card.weights.sha256) or "not told"),
    ]
    return [
        "## Training",
        f"By others; carp-eval {escape(record.package_version)} has converted the weights.",
        table(("", ""), rows),
    ]


def _settings(recipe: RecipeCard) -> str:
    content = recipe.model_dump(mode="json", exclude=set(NO_SETTINGS))
    rows: list[tuple[str, str]] = [("method", escape(recipe.method))]
    for name, value in content.items():
        parts = value if isinstance(value, list) else [value]
        rows.append((escape(name), "<br>".join(_plain(part) for part in parts)))
    return table(("", ""), rows)


def _plain(value: Any) -> str:
    if not isinstance(value, dict):
        return escape(str(value))
    shown = {name: part for name, part in value.items() if part not in (None, [], {}, "")}
    return escape(
        ", ".join(
            f"{name} {json.dumps(part) if not isinstance(part, str) else part}"
            for name, part in shown.items()
        )
    )


def _provenance(results: Sequence[tuple[str, Result]]) -> list[str]:
    """Tell of each number what produced it."""
    said: list[str] = []
    for path, result in results:
        counts = ", ".join(f"{number:,} {name}" for name, number in result.counts.items())
        versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        at = f" at {result.git_commit}" if result.git_commit else ""
        lines = [
            f"[{escape(path.rpartition('/')[2])}]({path}): {code(f'{result.protocol}@{result.variant}')} on "
            f"{escape(model_index.data_name(result))}, {escape(result.finished)}",
            escape(counts),
            f"seed {result.seed}, on {escape(result.device)}, {result.seconds:.0f} s; {escape(versions + at)}",
            f"weights {code(result.weights_sha256[:16])}, protocol card {code(result.card_sha256[:16])}",
            *(f"note: {escape(note)}" for note in result.notes),
        ]
        said.append("- " + "\n  - ".join(line for line in lines if line))
    return ["## What produced each number", "\n".join(said)] if said else []


def _licence(record: HubRecord) -> list[str]:
    card = record.card
    note = escape(card.licence_note) if card is not None and card.licence_note else ""
    if not record.licence:
        said = "Unknown: nobody told under which licence these weights may be used."
    else:
        said = f"{escape(record.licence)}."
    return ["## Licence", f"{said} {note}".strip()]
