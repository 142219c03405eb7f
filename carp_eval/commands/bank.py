"""`carp bank`: look into a memory bank."""

from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options

app = typer.Typer(
    no_args_is_help=True, help="Look into a memory bank: what is inside, and whether it is whole."
)

BankPath = Annotated[
    Path, typer.Argument(metavar="BANK", help="A bank's folder, as `carp extract` prints it.")
]


@app.command()
def info(path: BankPath, json: options.Json = False) -> None:
    """Say what is inside a bank."""
    from carp_eval.commands import tables
    from carp_eval.features.bank import Bank

    tables.show_mapping(Bank.open(path).describe(), title=str(path), as_json=json)


@app.command()
def verify(path: BankPath) -> None:
    """Read every byte of a bank and check it against its hashes."""
    from carp_eval.commands import tables
    from carp_eval.errors import BankError
    from carp_eval.features.bank import Bank

    bank = Bank.open(path)
    problems = bank.verify()
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise BankError(
            f"{path} is damaged:\n{listed}\nRun the same `carp extract` again: it redoes what is damaged"
        )
    tables.say(f"{path} is whole: {len(bank)} rows, every hash right")
