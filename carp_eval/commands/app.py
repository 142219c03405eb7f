"""The command line, put together; nothing heavy is imported before a command runs."""

import sys

import typer
from rich.console import Console

from carp_eval.commands import (
    assign,
    bank,
    compare,
    data,
    doctor,
    evaluate,
    explore,
    export,
    extract,
    leaderboard,
    prototypes,
    pull,
    push,
    quickstart,
    report,
    runs,
    sweep,
    train,
    zoo,
)
from carp_eval.errors import CarpError

app = typer.Typer(
    name="carp",
    help="Train CARP, bank the features of a vision model once, and score them by named protocols.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quickstart")(quickstart.quickstart)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("extract")(extract.extract)
app.command("assign")(assign.assign)
app.command("prototypes")(prototypes.prototypes)
app.add_typer(evaluate.app, name="eval")
app.command("compare")(compare.compare)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("runs")(runs.runs)
app.add_typer(bank.app, name="bank")
app.add_typer(data.app, name="data")
app.add_typer(zoo.app, name="zoo")
app.command("pull")(pull.pull)
app.command("push")(push.push)
app.command("export")(export.export)
app.command("report")(report.report)
app.command("explore")(explore.explore)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run `carp`; what a user can put right is told without a traceback, with exit code 2."""
    try:
        app()
    except CarpError as error:
        if not error.told:
            Console(stderr=True, soft_wrap=True).print(
                f"error: {error}", style="red", markup=False, highlight=False
            )
        sys.exit(2)
