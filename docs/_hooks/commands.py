"""The command line's reference, made from what `carp --help` itself is made from."""

from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from carp_eval.commands.app import app

FOLDER = "reference/commands"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each command, and one that lists them."""
    group = typer.main.get_command(app)
    pages = {name: "\n".join(_page(f"carp {name}", command)) for name, command in _commands(group).items()}
    rows = [
        f"| [`carp {name}`]({name}.md) | {_first_line(command)} |"
        for name, command in _commands(group).items()
    ]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    files.append(
        File.generated(config, f"{FOLDER}/index.md", content=f"# Commands\n\n{_INTRODUCTION}\n\n{table}\n")
    )
    for name, content in pages.items():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=content))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give each command its place in the navigation, below the page that lists them."""
    page = f"{FOLDER}/index.md"
    names = sorted(_commands(typer.main.get_command(app)))
    below = [page, *({f"carp {name}": f"{FOLDER}/{name}.md"} for name in names)]
    for section in config.nav or []:
        for entry in next(iter(section.values())) if isinstance(section, dict) else []:
            if isinstance(entry, dict) and page in entry.values():
                entry[next(iter(entry))] = below
    return config


_INTRODUCTION = (
    "What each says with `--help`, in full. `-m`, `-d`, `--variant`, `--device`, `--output`, `--json` and `--dry-run` "
    "mean the same everywhere. A mistake that can be put right ends with exit code 2 and a message that says how."
)


def _commands(group: Any) -> dict[str, Any]:
    return {name: command for name, command in getattr(group, "commands", {}).items() if not command.hidden}


def _page(name: str, command: Any, *, level: int = 1) -> Iterator[str]:
    """Write a command, and below it those that it leads to."""
    context = command.make_context(name, [], resilient_parsing=True)
    yield f"{'#' * level} {name}\n"
    yield _plain(command.help or "") + "\n"
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage.replace('[[', '[').replace(']]', ']')}\n```\n"
    for kind in ("argument", "option"):
        told = [one.get_help_record(context) for one in command.params if one.param_type_name == kind]
        if any(told):
            yield f"| {kind} | what it says |\n|---|---|"
            yield from (f"| `{_cell(record[0])}` | {_cell(record[1])} |" for record in told if record)
            yield ""
    for inner, below in _commands(command).items():
        yield from _page(f"{name} {inner}", below, level=level + 1)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    r"""Take away rich's escape, as in `\[`: it is for the terminal."""
    return text.replace("\\[", "[").strip()


def _first_line(command: Any) -> str:
    return _plain(command.help or "").partition("\n")[0]
