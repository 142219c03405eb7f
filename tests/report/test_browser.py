"""The page in a real browser: no console error, tabs and filters by keyboard, pictures and map."""

import pytest

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.evaluation.running import evaluate
from carp_eval.report import found as founds
from carp_eval.report import writing


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
        writing.write(founds.results(), root / "report.html")
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
    assert values == sorted(values)


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
