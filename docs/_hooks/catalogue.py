"""Lists of protocols, recipes, released models and data sets, and what each kind of card says: made from the cards."""

import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from pkgutil import iter_modules

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from carp_eval import cards
from carp_eval.cards import kinds, loading, methods, shelf
from carp_eval.cards.checkpoint import CheckpointCard
from carp_eval.cards.frozen import Card, Frozen
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.published import PublishedCard
from carp_eval.cards.published_numbers import highest, numbers_of
from carp_eval.cards.recipe import RecipeCard
from carp_eval.cards.suite import SuiteCard, suite
from carp_eval.data.table import TABLE


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from cards."""
    pages = {
        "protocols": _protocols(),
        "recipes": _recipes(),
        "zoo": _zoo(),
        "datasets": _datasets(),
        "cards": _cards(),
    }
    for name, lines in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines) + "\n"))
    return files


def _protocols() -> Iterator[str]:
    yield "# Protocols\n"
    yield (
        "Every card in `protocols/`. One name in the field often covers protocols that do not agree: each is a variant "
        "with a card of its own, chosen by `--variant`. [How to add one](../protocol-cards.md).\n"
    )
    for kind in kinds.KINDS:
        yield f"## {kind}\n"
        found = {variant: loading.protocol_card(kind, variant) for variant in shelf.variants(kind)}
        yield from _table(
            ("variant", "what it is", "it follows"),
            ((f"`{variant}`", card.summary, card.source) for variant, card in found.items()),
        )
    yield "## Suites\n"
    yield "Lists of evaluations for `carp eval suite NAME`.\n"
    found = {name: suite(name) for name in shelf.names("protocols/suites")}
    rows = ((f"`{name}`", card.summary, str(len(card.entries))) for name, card in found.items())
    yield from _table(("suite", "what it is", "entries"), rows)


def _recipes() -> Iterator[str]:
    yield "# Recipes\n"
    yield (
        "Every card in `zoo/recipes/`, for `carp train NAME`. What to expect is empty where nobody has measured it. "
        "[How to write one](../guides/own-training.md).\n"
    )
    recipes = {name: loading.recipe(name) for name in shelf.names(shelf.RECIPES)}
    for method in methods.TYPES:
        yield f"## {method}\n"
        rows = (
            (f"`{name}`", card.summary, card.data.name, card.expect.score, card.expect.time)
            for name, card in recipes.items()
            if card.method == method
        )
        yield from _table(("recipe", "what it is", "data", "expect", "takes"), rows)


def _zoo() -> Iterator[str]:
    yield "# Released models\n"
    yield (
        "Every card in `zoo/`, for `carp pull NAME` and `-m NAME`. The two last columns are the highest ImageNet top-1 "
        "that was published of a model, by any variant; `carp zoo show NAME` tells every number with its document.\n"
    )
    tables = loading.published()
    rows: list[tuple[str, ...]] = []
    for name in shelf.names(shelf.ZOO):
        card = loading.checkpoint_card(name)
        numbers = numbers_of(tables, {name, *card.published_as})
        best = (highest(numbers, protocol=protocol, dataset="imagenet") for protocol in ("linear", "knn"))
        scores = (f"{number.value:.1f}" if number else "" for number in best)
        again = "yes" if card.publishable else "no"
        rows.append((f"`{name}`", card.summary, card.licence or "none told", again, *scores))
    yield from _table(("model", "what it is", "licence", "may be published again", "linear", "k-NN"), rows)


def _datasets() -> Iterator[str]:
    yield "# Data sets\n"
    yield (
        "What `-d` knows by name. `carp data list NAME` tells how to get one, `carp data check NAME` whether a copy is "
        "whole. Images of your own: [folder:, images:, hf: and wds:](../guides/own-images.md).\n"
    )
    rows = (
        (
            f"`{name}`",
            row.title,
            ", ".join(f"{split} {size:,}" for split, size in row.splits.items()),
            str(row.num_classes or ""),
            row.licence,
            f"[page]({row.homepage})",
        )
        for name, row in TABLE.items()
    )
    yield from _table(("name", "shows", "splits", "classes", "licence", "made by"), rows)


def _cards() -> Iterator[str]:
    yield "# What cards say\n"
    yield (
        "A card is a TOML file. Unknown keys are refused, and so is a card that lacks a key without a default. "
        "`extends` starts from another card.\n"
    )
    sections: tuple[tuple[str, type[Frozen], str], ...] = (
        ("Recipes", RecipeCard, "`zoo/recipes/`, `carp train NAME` or `carp train FILE.toml`."),
        (
            "Protocols",
            ProtocolCard,
            "`protocols/`, `carp eval KIND --variant NAME` or `--variant FILE.toml`.",
        ),
        ("Checkpoints", CheckpointCard, "`zoo/`, `carp pull NAME` or `carp pull FILE.toml`."),
        ("Suites", SuiteCard, "`protocols/suites/`, `carp eval suite NAME` or `carp eval suite FILE.toml`."),
        ("Published numbers", PublishedCard, "`zoo/published/`, one file for each table of a document."),
    )
    yield "## All cards\n"
    yield from _class(Card)
    told: set[type[Frozen]] = {Card}
    for title, top, where in sections:
        yield f"## {title}\n\n{where}\n"
        for card in _family(top):
            if card not in told:
                told.add(card)
                yield from _class(card)


def _family(top: type[Frozen]) -> Iterator[type[Frozen]]:
    """Yield a kind of card, the tables inside it, and then its subclasses with theirs."""
    yield top
    homes = [top.__module__]
    known = [
        found
        for module in iter_modules(cards.__path__, "carp_eval.cards.")
        for _, found in inspect.getmembers(import_module(module.name), inspect.isclass)
        if found.__module__ == module.name and issubclass(found, Frozen)
    ]
    special = [card for card in known if issubclass(card, top) and card is not top]
    homes += [card.__module__ for card in special]
    yield from (
        card
        for home in dict.fromkeys(homes)
        for card in sorted(known, key=lambda one: not issubclass(one, top))
        if card.__module__ == home and card is not top
    )


def _class(card: type[Frozen]) -> Iterator[str]:
    yield f"::: {card.__module__}.{card.__qualname__}"
    yield "    options:\n      heading_level: 3\n      members: []\n      show_signature: false\n"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""
