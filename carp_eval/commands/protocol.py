"""What every command of `carp eval` shares: its options, and how a protocol is run and shown."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carp_eval.cards import shelf
from carp_eval.commands import importing, options

if TYPE_CHECKING:
    from carp_eval.evaluation.job import Bar, Settings

# Makes changes of a card's top-level keys from a command's own options.
Changes = Callable[..., dict[str, Any]]


def protocol(
    kind: str, *, default: str, place: Path | None = None, searches: bool = False, streams: bool = False
) -> Callable[[Changes], Callable[..., None]]:
    """Make a command of a function that turns a protocol's own options into changes of its card.

    The command has the function's name, help and options, then `--variant`, then those of every protocol.

    Args:
        kind: The kind of protocol.
        default: The variant that runs where none is named.
        place: Folder of its cards; None is that of ours.
        searches: Whether it has a search, and so `--memory`.
        streams: Whether it learns from features that may be larger than memory, and so `--memory`.
    """

    def decorate(changes: Changes) -> Callable[..., None]:
        own = inspect.signature(changes).parameters

        def command(**given: Any) -> None:
            changed = changes(**{name: given.pop(name) for name in own})
            run(kind, given.pop("variant"), changed, **given)

        named = f"{', '.join(shelf.variants(kind, place=place))}, or a card's path ending in .toml."
        variant = inspect.Parameter(
            "variant",
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[str, typer.Option("--variant", help=named)],
        )
        of_memory = options.Memory if searches else options.MemoryToLearn
        memory = inspect.Parameter(
            "memory", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=of_memory
        )
        command.__name__, command.__doc__ = changes.__name__, changes.__doc__
        return _signed(command, (*own.values(), variant, *([memory] if searches or streams else [])))

    return decorate


def with_shared_options(*, without: Collection[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, which takes them as keywords, the options of every protocol behind its own.

    Args:
        without: Those that it has not.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        kinds = inspect.signature(command).parameters.values()
        own = [parameter for parameter in kinds if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        return _signed(command, own, without=without)

    return decorate


def _signed(
    command: Callable[..., None], own: Iterable[inspect.Parameter], *, without: Collection[str] = ()
) -> Callable[..., None]:
    """Write a command's own options and the shared ones into its signature, where typer reads them."""
    shared = inspect.signature(_shared).parameters.values()
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (*own, *(parameter for parameter in shared if parameter.name not in without))
    ]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command


def _shared(
    model: options.Model = None,
    dataset: options.Dataset = None,
    queries: options.Queries = None,
    branch: options.Branch = None,
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    dtype: options.Dtype = options.DtypeChoice.float16,
    skip_bad: options.SkipBad = False,
    leak_check: options.LeakCheck = True,
    drop_leaks: options.DropLeaks = False,
    seed: options.Seed = 0,
    output: options.Output = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Stand for the options of every protocol."""


def run(kind: str, variant: str, changes: dict[str, Any], **shared: Any) -> None:
    """Run a protocol as the options say, and print its table.

    Raises:
        CarpError: If card, model and data do not fit, or one is missing.
    """
    from carp_eval.cards import loading

    # Before what takes seconds to import: a misspelled variant is told of at once.
    card = loading.protocol_card(kind, variant, changes)

    with importing.undisturbed():
        from carp_eval import distributed
        from carp_eval.checkpoints.opening import open_model
        from carp_eval.commands import progress, scores
        from carp_eval.evaluation.running import evaluate, for_dataset

    model = open_model(shared["model"], branch=options.branch_of(shared["branch"]), layer=card.layer)
    if shared["dry_run"]:
        dataset, queries = shared["dataset"] or model.dataset, shared["queries"]
        if dataset is not None:
            card = for_dataset(card, dataset, queries)
        scores.show_plan(card, model, dataset=dataset, queries=queries, as_json=shared["json"])
        return
    distributed.join()
    with progress.bars() as bars:
        record, path = evaluate(
            model,
            card,
            dataset=shared["dataset"],
            queries=shared["queries"],
            leaks=options.leaks(check=shared["leak_check"], drop=shared["drop_leaks"]),
            settings=settings_of(shared, progress=bars),
            output=shared["output"],
            seed=shared["seed"],
        )
    if distributed.is_main():
        scores.show(record, path, as_json=shared["json"])
    distributed.leave()


def settings_of(shared: Mapping[str, Any], *, progress: "Bar | None" = None) -> "Settings":
    """Return where and how to run, as the shared options say.

    Args:
        shared: The options' values, by name.
        progress: Makes a bar for work of a name.
    """
    from carp_eval.evaluation.job import Settings

    return Settings(
        data_root=shared["data_root"],
        device=shared["device"],
        batch_size=shared["batch_size"],
        num_workers=shared["workers"],
        dtype=shared["dtype"].value,
        skip_bad=shared["skip_bad"],
        progress=progress,
        memory=shared.get("memory"),
    )
