"""The page in a real browser: no console error, tabs and filters by keyboard, pictures and map."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.evaluation.running import evaluate
from carp_eval.report import found as founds
from carp_eval.report import page as pages
from carp_eval.report import rendering, writing
from carp_eval.report.parts.bank_map import Map
from carp_eval.report.thumbnails import Thumbnails
from tests.report.records import record, saved


@pytest.fixture(scope="module")
def address(tmp_path_factory, digit_folder):
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARP_HOME", str(root / "home"))
        patch.chdir(root)
        for kind, variant in (("knn", "dino"), ("cluster", "carp")):
            changes = {"k": [1, 5]} if kind == "knn" else {"restarts": 1}
            card = loading.protocol_card(kind, variant, changes)
            evaluate(open_model("pixels:digits"), card, dataset=f"folder:{digit_folder}", leaks="ignore")
        writing.write(founds.results(), root / "report.html", umap=False)
    return (root / "report.html").as_uri()


@pytest.fixture
def page(open_page, address):
    return open_page(address)


def test_tabs_work_by_keyboard(page):
    page.focus("#tab-scores")
    page.keyboard.press("ArrowRight")
    assert page.locator("#confusion").is_visible()
    assert not page.locator("#scores").is_visible()
    page.keyboard.press("End")
    assert page.locator("#origins").is_visible()


def test_scores_are_filtered_and_sorted(page):
    rows = page.locator("#scores-table tbody tr:visible")
    page.select_option("select[name=protocol]", "knn@dino")
    assert rows.count() == 2
    page.check("input[name=every]")
    assert rows.count() == 6
    page.fill("input[name=words]", "top5")
    assert rows.count() == 2
    page.fill("input[name=words]", "")
    page.click("#scores-table th:nth-child(5) button")
    values = [float(text.rstrip(" %")) for text in rows.locator("td:nth-child(5)").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 1


def test_every_picture_loads(page):
    broken = page.evaluate(
        """async () => {
            const addresses = [...document.querySelectorAll('symbol image')].map((one) => one.getAttribute('href'));
            const load = (address) => new Promise((done) => {
                const image = new Image();
                image.onload = () => done(image.naturalWidth === 0);
                image.onerror = () => done(true);
                image.src = address;
            });
            const found = await Promise.all(addresses.map(load));
            return [found.length, found.filter(Boolean).length];
        }"""
    )
    assert broken[0] > 20
    assert broken[1] == 0


def test_the_map_shows_the_image_that_is_pointed_at(page):
    page.click("#tab-map")
    canvas = page.locator(".stage > canvas").first
    canvas.focus()
    page.keyboard.press("ArrowRight")
    words = page.locator(".card p").first.inner_text()
    assert words.endswith(".png")
    drawn = page.evaluate(
        """() => {
            const pixels = (canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return [...document.querySelectorAll('.map canvas')].slice(0, 2).map(
                (canvas) => pixels(canvas).some((value) => value > 0));
        }"""
    )
    assert drawn == [True, True]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_drawn(open_page, address, theme):
    page = open_page(address, color_scheme=theme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[theme]


def test_on_paper_every_part_is_shown(page):
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert all(section.is_visible() for section in page.locator("section.panel").all())


def test_a_score_leads_to_its_origin_and_the_command_behind_it(page):
    page.click("#scores-table tbody tr:visible >> nth=0 >> a")
    origin = page.locator("details[open]")
    assert origin.count() == 1
    assert page.locator("#origins").is_visible()
    # Evaluated from Python, by this very process: its command is what the record has.
    assert Path(sys.argv[0]).name in origin.locator("code").inner_text()


def test_no_part_is_wider_than_a_narrow_window(open_page, address):
    page = open_page(address, viewport={"width": 320, "height": 640})
    for tab in page.locator("#tabs a").all():
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, tab.inner_text()


def test_twenty_thousand_points_follow_the_pointer(open_page, tmp_path):
    count, random = 20_000, np.random.default_rng(0)
    data = {
        "x": random.integers(0, 4000, count).tolist(),
        "y": random.integers(0, 4000, count).tolist(),
        "label": random.integers(0, 1000, count).tolist(),
        "classes": [f"class {number}" for number in range(1000)],
        "keys": [f"image {number}" for number in range(count)],
        "wrong": list(range(0, count, 3)),
        "pictured": [],
        "side": 32,
        "columns": 32,
        "on_sheet": 1024,
    }
    drawn = Map("many", "20,000 images", "Map of many", data, [])
    page = replace(pages.put_together([saved(tmp_path, record())], Thumbnails()), maps=[drawn])
    text = rendering.render(
        "page.html.j2", scripts=writing.SCRIPTS, page=page, kept={}, words=[], shapes=list(writing.SHAPES)
    )
    (tmp_path / "many.html").write_text(text, encoding="utf-8")
    opened = open_page((tmp_path / "many.html").as_uri())
    opened.click("#tab-map")
    milliseconds = opened.evaluate(
        """() => {
            const canvas = document.querySelector('.stage > canvas');
            const box = canvas.getBoundingClientRect();
            const taken = [...Array(30).keys()].map((step) => {
                const place = { clientX: box.left + 150 + step * 10, clientY: box.top + 100 + step * 5 };
                const before = performance.now();
                canvas.dispatchEvent(new PointerEvent('pointermove', { ...place, bubbles: true }));
                return performance.now() - before;
            });
            return taken.sort((a, b) => a - b)[15];
        }"""
    )
    # A few on any machine; 50 would be felt.
    assert milliseconds < 50
    assert opened.locator(".card p").inner_text().endswith("(no picture)")
