"""`carp data`: the data sets known by name."""

import typer

from carp_eval.commands import options

app = typer.Typer(no_args_is_help=True, help="The data sets known by name.")


@app.command("list")
def list_datasets(json: options.Json = False) -> None:
    """List the data sets known by name: splits, classes, sizes, licence, and how to get them."""
    from carp_eval.commands import tables
    from carp_eval.data.table import TABLE, how_to_get

    rows = [
        {
            "name": name,
            "splits": [f"{split} {size:,}" for split, size in row.splits.items()],
            "classes": row.num_classes,
            "pixels": row.image_size or "various",
            "licence": row.licence,
            "shows": row.title,
        }
        for name, row in TABLE.items()
    ]
    ways = {name: how_to_get(name) for name in TABLE}
    if json:
        rows = [row | {"to get it": way} for row, way in zip(rows, ways.values(), strict=True)]
    tables.show_rows(
        rows, title="Data sets: -d NAME, besides folder:PATH and hf:USER/NAME or hf:FOLDER", as_json=json
    )
    if not json:
        for name, way in ways.items():
            tables.say(f"{name}, where it is not here yet:\n{way}" if "\n" in way else f"{name}: {way}")
