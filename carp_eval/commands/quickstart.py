"""`carp quickstart`: from nothing to a score."""

from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options


def quickstart(
    seed: Annotated[int, typer.Option("--seed", help="Seed of the training.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder that holds the runs.")] = Path(
        "runs"
    ),
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Train CARP on the embedded digits and score its features: a few minutes, no download."""
    from carp_eval import quickstart as job
    from carp_eval.commands import tables, train_display
    from carp_eval.evaluation.job import Settings

    with train_display.Display() as display:
        rows = job.run(
            display=display,
            seed=seed,
            runs_root=output,
            settings=Settings(device=device),
            watch=lambda name: display.say(f"scoring {name}"),
        )
    if rows is None:
        raise typer.Exit(130)
    tables.show_rows(
        [
            {"features": row.name}
            | {f"{score.settings['k']}-NN": score.value for score in row.knn.scores if score.metric == "top1"}
            | {
                score.metric.upper(): score.value
                for score in row.cluster.scores
                if score.metric in ("nmi", "ami", "ari")
            }
            for row in rows
        ],
        title=f"Embedded digits, test split, seed {seed}: top-1 of weighted k-NN; k-means",
        as_json=json,
    )
