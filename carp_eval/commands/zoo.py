"""`carp zoo`: the released checkpoints known by name."""

from typing import Annotated

import typer

from carp_eval.commands import options, zoo_import

app = typer.Typer(no_args_is_help=True, help="Released checkpoints known by name, and those imported here.")


@app.command("list")
def list_models(
    method: Annotated[
        str | None, typer.Option("--method", help="Only models whose method's name has this in it.")
    ] = None,
    pulled: Annotated[bool, typer.Option("--pulled", help="Only models that are on this machine.")] = False,
    json: options.Json = False,
) -> None:
    """List the models known by name: licence, whether they are here, and what was published of them.

    The numbers are ImageNet top-1 accuracies, the highest that any table has.
    """
    from carp_eval.cards import loading, shelf
    from carp_eval.cards.published_numbers import numbers_of
    from carp_eval.checkpoints.zoo.pulled import find
    from carp_eval.commands import tables, zoo_tables
    from carp_eval.errors import UnknownNameError

    names = sorted({*shelf.names(shelf.ZOO), *loading.imported_cards()})
    cards = {name: loading.checkpoint_card(name) for name in names}
    if method is not None:
        methods = {card.method for card in cards.values()}
        cards = {name: card for name, card in cards.items() if method.casefold() in card.method.casefold()}
        if not cards:
            raise UnknownNameError("method", method, methods)
    published = loading.published()
    models = [
        zoo_tables.ListedModel(
            name, card, find(name) is not None, numbers_of(published, {name, *card.published_as})
        )
        for name, card in cards.items()
    ]
    if pulled:
        models = [model for model in models if model.here]
    if not models and not json:
        tables.say("none of them is on this machine yet: carp pull NAME fetches one")
        return
    zoo_tables.show_list(models, as_json=json)
    if not json:
        tables.say("again: whether the licence lets you publish the weights again")
        tables.say("linear, k-NN: ImageNet top-1, the highest in any table")
        tables.say("carp zoo show NAME: where it is fetched from, and every published number")


@app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="A name from `carp zoo list`, or a card's path (.toml).")],
    json: options.Json = False,
) -> None:
    """Tell all of one model: source, format, licence, whether it is here, and what was published of it."""
    from carp_eval.cards import loading
    from carp_eval.cards.published_numbers import numbers_of
    from carp_eval.checkpoints.zoo.pulled import find
    from carp_eval.commands import zoo_tables

    card = loading.checkpoint_card(name)
    found = None if name.endswith(".toml") else find(name)
    numbers = numbers_of(loading.published(), {name, *card.published_as})
    zoo_tables.show_one(name, card, found, numbers, as_json=json)


# Behind the two above, so that help tells of them in this order.
app.command("import")(zoo_import.import_weights)
app.command("verify")(zoo_import.verify)
