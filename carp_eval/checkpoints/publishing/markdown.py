"""Words of others in Markdown: names and notes shown as they are, whatever characters they have."""

import re
from collections.abc import Iterable, Sequence

# What could begin a mark of Markdown or of HTML anywhere in a line, or end a cell of a table.
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")


def escape(text: str) -> str:
    """Return text that shows as it is, on one line."""
    plain = " ".join(text.split())
    # What would begin a list or a heading only does so at the start of a line.
    return re.sub(r"^(\d*)([-+=.)])(?= |$)", r"\1\\\2", _MARKS.sub(_escaped, plain))


def code(text: str) -> str:
    """Return text as code in a line, also in a cell of a table."""
    plain = " ".join(text.split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}" if plain else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; what is in its cells is Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def block(text: str, language: str) -> str:
    """Return lines of code."""
    return f"```{language}\n{text.strip()}\n```"


def link(text: str, address: str) -> str:
    """Return a link; an address that is none of the web is shown and leads nowhere."""
    if not re.fullmatch(r"https?://[^\s<>()\[\]`|\\]+", address):
        return escape(f"{text} ({address})") if address else escape(text)
    return f"[{escape(text)}]({address})"


def _escaped(found: re.Match[str]) -> str:
    # A backslash does not keep a browser from reading a tag in every reader of Markdown.
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(found[0], f"\\{found[0]}")
