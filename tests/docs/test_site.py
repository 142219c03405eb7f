"""The documentation site: it builds without a warning, its links lead somewhere, it asks for nothing from elsewhere."""

import functools
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("mkdocs", reason="the site's generator is not installed here (extra: docs)")
pytest.importorskip("material", reason="the site's theme is not installed here (extra: docs)")
pytest.importorskip("mkdocstrings", reason="what reads docstrings is not installed here (extra: docs)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Read(HTMLParser):
    """What a page leads to, what it loads, and the places in it that a link may name."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.places.update(told[key] for key in ("id", "name") if told.get(key))
        if tag == "a" and told.get("href"):
            self.links.append(told["href"])
        # What a browser fetches by itself. Of <link>, `canonical` and the like are names, but none is needed.
        self.loads += [told[key] for key in ("src", "srcset", "data", "poster") if told.get(key)]
        if tag == "link" and told.get("href"):
            self.loads.append(told["href"])


@pytest.fixture(scope="module")
def pages(site):
    found = {path: Read(path) for path in site.rglob("*.html")}
    assert len(found) > 30
    return found


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for path, page in pages.items():
        for load in page.loads:
            assert not urlsplit(load).netloc, f"{path} loads {load}"
    for path in site.rglob("*.css"):
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", path.read_text("utf-8")), path
    for path in pages:
        inline = re.findall(r"<script[^>]*>(.*?)</script>", path.read_text("utf-8"), flags=re.DOTALL)
        assert not any(re.search(r"(fetch|import)\(.{0,3}https?:", script) for script in inline), path


def test_links_inside_lead_to_pages_and_places_that_are_there(site, pages):
    checked = 0
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in (*page.links, *page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("http", "https", "mailto", "data"), link
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            assert target.is_file(), f"{path.relative_to(site)} leads to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].places, f"{path.relative_to(site)}: {link}"
            checked += 1
    assert checked > 1000


def words(path: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", path.read_text("utf-8")))


def test_the_reference_has_every_command_card_and_public_name(site):
    import typer

    import carp_eval
    from carp_eval.commands.app import app

    def every(group, name):
        for below, command in getattr(group, "commands", {}).items():
            yield f"{name} {below}"
            yield from every(command, f"{name} {below}")

    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        page = words(site / "reference" / "commands" / f"{name}.html")
        for below in (f"carp {name}", *every(command, f"carp {name}")):
            assert below in page
        for one in command.params:
            assert all(option in page for option in one.opts if option.startswith("-"))
    reference = {path.stem: words(path) for path in (site / "reference").glob("*.html")}
    for folder, page in (("zoo", "zoo"), ("zoo/recipes", "recipes"), ("protocols/suites", "protocols")):
        names = [path.stem for path in (ROOT / folder).glob("*.toml")]
        assert names
        assert not [name for name in names if name not in reference[page]]
    for path in (ROOT / "protocols").glob("*@*.toml"):
        assert path.stem.partition("@")[2] in reference["protocols"]
    for name in carp_eval.__all__:
        home = "errors" if name == "CarpError" else "names"
        assert name in reference[home]
    # A key with its sentence, of a card of each kind.
    for key in ("temperature", "num_layers", "publishable", "block_size"):
        assert key in reference["cards"]


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(Quiet, directory=site)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Say nothing."""


def test_the_search_finds_a_page_and_the_palette_turns(address, open_page):
    page = open_page(f"{address}index.html", allowed=(address, "data:", "blob:"), color_scheme="light")
    assert page.title() == "carp-eval"
    picture = page.locator("article img").first
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 0
    page.locator("label[title=Dark]:visible").click()
    assert page.locator("body").get_attribute("data-md-color-scheme") == "slate"
    page.locator(".md-search__input").first.press_sequentially("leaks")
    found = page.locator(".md-search-result__link").first
    found.wait_for(timeout=20_000)
    found.click()
    page.wait_for_url("**/guides/*.html*")
    assert "eak" in page.locator("article").inner_text()
    page.goto(f"{address}guides/own-images.html")
    # A copy button beside each block of commands.
    assert page.locator("article pre").count() <= page.locator("article .md-code__button").count()
