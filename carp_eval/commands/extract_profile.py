"""What `carp extract --profile` shows: the rate of each stage, and the bottleneck in words."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carp_eval.commands import tables

if TYPE_CHECKING:
    from carp_eval.features.extraction.profile import Profile


def show(profile: "Profile", split: str) -> None:
    """Print a table of stages and a sentence below it."""
    stages = profile.stages()
    if not stages:
        tables.say(f"profile of {split}: nothing was extracted, the bank was there")
        return
    loaders = (
        "this process" if not profile.workers else f"{profile.workers} worker{'s' * (profile.workers > 1)}"
    )
    places = {"forward": profile.device, "write": "a thread"}
    table = Table(
        title=f"profile of {escape(split)}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("stage")
    for name in ("images/s of one", "in all", "busy"):
        table.add_column(name, justify="right")
    table.add_column("where")
    for stage in stages:
        where = places.get(stage.name, loaders)
        table.add_row(stage.name, f"{stage.one:,.4g}", f"{stage.all:,.4g}", f"{stage.share:.0%}", where)
    Console().print(table)
    tables.say(f"{profile.rate:.4g} images/s, after a start of {profile.starting:.1f} s. {profile.verdict()}")
