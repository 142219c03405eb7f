import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: tests run side by side, and threads that wait for a busy core wait long.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


@pytest.fixture(scope="session")
def digit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the embedded digits as class folders: 96 to train on and 40 to test on, of four classes."""
    from carp_eval.data.digits import open_split

    root = tmp_path_factory.mktemp("digits")
    for split, each in (("train", 24), ("test", 10)):
        images = open_split(split)
        for label in range(4):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for number in (images.labels == label).nonzero()[0][:each].tolist():
                images.image(number).save(folder / f"{images.key(number)}.png")
    return root


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium without a window: the system's own, or else playwright's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here")
    own = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    # Its sandbox does not start for root, as which CI runs; the pages are ours.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=own, args=arguments)
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts here (`make browser` installs it): {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Open pages, in contexts of their own, that fail the test by any word on the console or request elsewhere."""
    contexts: list[Any] = []
    said: list[str] = []

    def opened(address: str, *, allowed: tuple[str, ...] = ("file:", "data:"), **settings: Any) -> Any:
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda word: said.append(word.text) if word.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(allowed) else said.append(asked.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not said, said
