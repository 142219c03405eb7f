"""`carp explore`: a page that shows what is near to an image."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from carp_eval.report.evidence import Shelf
    from carp_eval.report.explorer.choosing import Chosen
    from carp_eval.report.explorer.exhibit import Exhibit

HOST, PORT = "127.0.0.1", 7860


class MapChoice(StrEnum):
    """How a map is drawn."""

    pca = "pca"
    umap = "umap"


def explore(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="BANK",
            help="A bank's folder, as `carp extract` prints it. Default: the model's bank; without -m, the last run's; "
            "without a run, the newest.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
    dataset: options.Dataset = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Of the model's banks, that of this split. Default: test.")
    ] = None,
    layer: Annotated[
        options.LayerChoice, typer.Option("--layer", help="Of the model's banks, that of this output.")
    ] = options.LayerChoice.pool,
    branch: options.Branch = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL|BANK",
            help="A second model or bank, of the same images, beside the first.",
        ),
    ] = None,
    map_: Annotated[
        MapChoice, typer.Option("--map", help="How the map is drawn; umap takes a minute for 20,000 points.")
    ] = MapChoice.pca,
    points: Annotated[
        int,
        typer.Option("--points", min=3, help="Points of the map, and images whose neighbours vote, at most."),
    ] = 20_000,
    exact: Annotated[
        bool, typer.Option("--exact", help="Search exactly, though the bank has an index.")
    ] = False,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Where to listen. Beyond this machine (0.0.0.0), a random token is asked for; the first address that "
            "is printed is for other machines.",
        ),
    ] = HOST,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = PORT,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    data_root: options.DataRoot = None,
    device: options.Device = None,
) -> None:
    """Look at a bank in the browser: pick or drop an image, and see what is near it.

    Shows neighbours with similarities and classes, the nearest prototype where a training has some, and a map. Images
    are filtered by class, or by being taken for another class by their neighbours. Only this machine is served,
    without any other network. Ctrl-C ends it.
    """
    from carp_eval.commands import tables
    from carp_eval.commands.listening import names
    from carp_eval.errors import UsageError
    from carp_eval.report import plane
    from carp_eval.report.evidence import Shelf
    from carp_eval.report.explorer import choosing, guarding, serving
    from carp_eval.report.explorer.choosing import Wanted
    from carp_eval.report.explorer.routes import Explorer
    from carp_eval.report.explorer.side import Side

    umap = map_ is MapChoice.umap
    if umap and not plane.umap_is_there():
        raise UsageError("UMAP is not installed: pip install 'carp-eval[report]', or say --map pca")
    wanted = Wanted(
        model=model, dataset=dataset, split=split, branch=options.branch_of(branch), layer=layer.value
    )
    chosen = [choosing.choose(path, wanted)]
    if against is not None:
        chosen.append(choosing.beside(chosen[0].bank, against, wanted))
    # Before anything takes long.
    listening = serving.listen(host, port)
    shelf = Shelf(data_root=data_root)
    sides = [
        Side(
            each,
            _exhibit(each, shelf, dataset),
            umap=umap,
            points=points,
            device=device,
            approximate=not exact,
        )
        for each in chosen
    ]
    token = None if guarding.is_loopback(host) else guarding.new_token()
    port = listening.getsockname()[1]
    addresses = [serving.address(name, port, token) for name in names(host)]
    for side in sides:
        told = side.describe()
        tables.say(f"{told['model']}: {told['rows']:,} images, searched {told['search']}")
        for word in filter(None, (told["missing"], told["closed"])):
            tables.warn(word)
    # Each by itself on a line, in one piece, so that a terminal makes it a link.
    for address in addresses:
        tables.say(address)
    tables.say("Ctrl-C ends it")
    if show:
        serving.show(addresses[-1])
    explorer = Explorer(sides)
    serving.serve(explorer.app(token=token, host=host), listening, ending=explorer.stop)


def _exhibit(chosen: "Chosen", shelf: "Shelf", dataset: str | None) -> "Exhibit":
    """Open a bank's images, where they are on this machine and are those that the bank was made of."""
    from carp_eval.report.explorer.exhibit import Exhibit

    record = chosen.bank.record
    images = shelf.images(
        dataset or record.dataset, record.split, manifest_sha256=record.fingerprint.manifest_sha256
    )
    return Exhibit(chosen.bank, images, missing="" if images is not None else shelf.missing[-1])
