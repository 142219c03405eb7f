"""`carp data`: the data sets known by name."""

import typer

from carp_eval.commands import options

app = typer.Typer(no_args_is_help=True, help="The data sets known by name.")


@app.command("list")
def list_datasets(json: options.Json = False) -> None:
    """List the data sets known by name: splits, classes, sizes, licence, and how to get them."""
    from carp_eval.commands import tables
    from carp_eval.data import opening
    from carp_eval.data.table import TABLE

    rows = [
        {
            "name": name,
            "shows": row.title,
            "splits": [f"{split} {size:,}" for split, size in row.splits.items()],
            "classes": row.num_classes,
            "pixels": row.image_size or "various",
            "licence": row.licence,
            "to get it": opening.how_to_get(name),
        }
        for name, row in TABLE.items()
    ]
    tables.show_rows(
        rows, title="Data sets: -d NAME, besides folder:PATH and hf:USER/NAME or hf:FOLDER", as_json=json
    )
