"""The repository's own documents as pages of the site, and links that leave it as plain words."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents that lie beside `docs/`."""
    for path, source in PAGES.items():
        files.append(File.generated(config, path, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Lead links to pages of the site, and write those to what is only in the repository as words."""
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def lead(found: re.Match[str]) -> str:
        words, target = found.groups()
        place, mark, anchor = target.partition("#")
        if not place or ":" in place:
            return found.group()
        named = posixpath.normpath(posixpath.join(posixpath.dirname(source), place))
        path = next((page for page, of in PAGES.items() if of == named), named.removeprefix("docs/"))
        if files.get_file_from_path(path) is not None:
            here = posixpath.dirname(page.file.src_uri)
            return f"[{words}]({posixpath.relpath(path, here or '.')}{mark}{anchor})"
        # Nothing that is missing inside the site is hidden here: `--strict` must see it.
        if named.startswith("docs/"):
            return found.group()
        return words if words == place else f"{words} (`{named}`)"

    return _LINK.sub(lead, markdown)
