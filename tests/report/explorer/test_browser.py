"""The explorer in a real browser: what is picked or dropped shows its neighbours, filters work, nothing is wrong on the
console."""

import io
import re
import threading
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from carp_eval.report import plane
from carp_eval.report.explorer import routes
from carp_eval.report.explorer.choosing import Chosen
from carp_eval.report.explorer.exhibit import Exhibit
from carp_eval.report.explorer.side import Side
from carp_eval.report.explorer.votes import Votes
from tests.report.explorer import rows

HERE = ("http://127.0.0.1:", "blob:http://127.0.0.1:")
ATTACK = "<img src=x onerror=alert(1)>'\"&"
TURNED = "left\u202eright"
READY = "document.querySelector('#side-0 .near li') !== null"


def until(page, condition):
    """Wait for what a script says: playwright's own waiting makes a script of text, which the page's policy forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


@pytest.fixture
def explore(open_page):
    def opened(address, *, ready=READY, **settings):
        page = open_page(address, allowed=HERE, **settings)
        until(page, ready)
        return page

    return opened


@pytest.fixture
def page(explore, address):
    return explore(address, viewport={"width": 1280, "height": 900})


@pytest.fixture(scope="module")
def made(chosen):
    return [rows.read(each.bank) for each in chosen]


def names(page, side):
    """The keys of the neighbours that are shown, the nearest first."""
    titles = page.locator(f"#side-{side} .near button").evaluate_all("all => all.map((one) => one.title)")
    return [title.rpartition(": ")[2] for title in titles]


def settled(page):
    until(page, "!document.getElementById('main').hasAttribute('aria-busy')")


def keys_of(chosen, side, found):
    return [chosen[side].bank.keys[row] for row in found]


def test_a_picked_image_shows_its_right_neighbours_in_both_models(page, chosen, made):
    page.locator("#gallery button").nth(33).click()
    settled(page)
    assert page.inner_text("#query-key") == chosen[0].bank.keys[33]
    for side in (0, 1):
        near, similarities = rows.neighbours(made[side][0], 33, 12)
        assert names(page, side) == keys_of(chosen, side, near)
        shown = page.locator(f"#side-{side} .near .value").all_inner_texts()
        assert [float(text) for text in shown] == pytest.approx(similarities[near].tolist(), abs=6e-4)
        right = made[side][1][near] == made[side][1][33]
        marks = page.locator(f"#side-{side} .near .name").all_inner_texts()
        assert [mark.startswith("✓") for mark in marks] == right.tolist()
    assert "nearest prototype" in page.inner_text("#side-1 .prototype")
    assert page.inner_text("#side-0 .prototype") == ""
    assert page.url.endswith("#image=33")


def test_a_neighbour_can_be_picked_by_keyboard_and_their_number_changed(page, chosen, made):
    near, _ = rows.neighbours(made[0][0], 0, 1)
    page.locator("#side-0 .near button").first.focus()
    page.keyboard.press("Enter")
    settled(page)
    assert page.inner_text("#query-key") == chosen[0].bank.keys[near[0]]
    page.select_option("#k", "24")
    settled(page)
    until(page, "document.querySelectorAll('#side-0 .near li').length === 24")
    found, _ = rows.neighbours(made[0][0], near[0], 24)
    assert names(page, 0) == keys_of(chosen, 0, found)


def test_a_file_is_looked_up(page, chosen, sides, made, tmp_path):
    sides[0].exhibit.images.image(50).save(tmp_path / "mine.png")
    page.set_input_files("#file", tmp_path / "mine.png")
    until(page, "document.getElementById('query-key').textContent === 'mine.png'")
    settled(page)
    for side in (0, 1):
        near, _ = rows.neighbours(made[side][0], 50, 11)
        assert names(page, side) == keys_of(chosen, side, [50, *near])
    until(page, "document.getElementById('query-picture').naturalWidth === 28")
    until(page, "document.querySelector('#side-0 figcaption').textContent.includes('projected')")


def test_a_dropped_file_is_looked_up(page, chosen, sides):
    into = io.BytesIO()
    sides[0].exhibit.images.image(12).save(into, format="PNG")
    page.evaluate(
        """(bytes) => {
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            const drop = new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true });
            document.body.dispatchEvent(drop);
        }""",
        list(into.getvalue()),
    )
    until(page, "document.getElementById('query-key').textContent === 'dropped.png'")
    settled(page)
    assert names(page, 0)[0] == chosen[0].bank.keys[12]


def test_filters_by_class_error_and_name(page, chosen, made):
    _, labels, _ = made[0]
    until(page, "document.getElementById('count').textContent.includes('taken for another class')")
    wrong = [
        [row for row in range(96) if rows.taken_for(features, labels, row) != labels[row]]
        for features, labels, _ in made
    ]

    def shown(count):
        until(page, f"document.getElementById('count').textContent.startsWith('{count} images')")
        return page.locator("#gallery button").evaluate_all(
            "all => all.map((one) => Number(one.dataset.image))"
        )

    page.select_option("select[name=class]", "2")
    assert shown(24) == np.flatnonzero(labels == 2).tolist()
    page.select_option("select[name=class]", "")
    for side in (0, 1):
        page.select_option("select[name=only]", f"wrong:{side}")
        assert shown(len(wrong[side])) == wrong[side][:60]
    both = sorted(set(wrong[0]) ^ set(wrong[1]))
    page.select_option("select[name=only]", "differ:0")
    assert shown(len(both)) == both[:60]
    page.select_option("select[name=only]", "all:0")
    shown(96)
    page.fill("input[name=words]", chosen[0].bank.keys[70])
    assert shown(1) == [70]


def test_the_map_is_filtered_and_a_point_is_picked(page, chosen):
    until(page, "!document.querySelector('#side-0 .map').hasAttribute('aria-busy')")
    ink = """() => {
        const canvas = document.querySelector('#side-0 canvas');
        const copy = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height });
        const pen = copy.getContext('2d', { willReadFrequently: true });
        pen.drawImage(canvas, 0, 0);
        const values = pen.getImageData(0, 0, canvas.width, canvas.height).data;
        let strong = 0;
        for (let at = 3; at < values.length; at += 4) strong += values[at] > 100 ? 1 : 0;
        return strong;
    }"""
    until(page, f"({ink})() > 0")
    before = page.evaluate(ink)
    page.select_option("select[name=class]", "3")
    until(page, f"({ink})() < {before} * 0.6")
    canvas = page.locator("#side-0 canvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    words = page.inner_text("#side-0 .card p")
    assert words.startswith("3: ")
    page.keyboard.press("Enter")
    settled(page)
    assert page.inner_text("#query-key") == words.removeprefix("3: ")


def test_what_was_picked_before_the_map_was_drawn_gets_its_place(explore, serve, tmp_path, monkeypatch):
    go, drawn = threading.Event(), []

    async def slowly(_, features):
        while not go.is_set():
            await routes.anyio.sleep(0.01)
        return plane.draw(features, umap=False)

    monkeypatch.setattr(routes.Explorer, "_unfolded", slowly)
    bank = rows.make(tmp_path / "bank", labels=[0] * 40, names=("a",))
    side = Side(Chosen(bank, None), Exhibit(bank, None), umap=True, points=30)
    left_out = next(row for row in range(40) if row not in side.chart.rows)
    page = explore(f"{serve([side])}#image={left_out}")
    words = page.locator("#side-0 .map figcaption")
    assert words.text_content() == "The map is being drawn."
    page.on("requestfinished", lambda request: drawn.append(request.url))
    go.set()
    until(page, "document.querySelector('#side-0 figcaption').textContent.includes('projected onto')")
    assert sum("/places/" in url for url in drawn) == 1
    # What is picked now needs no second question.
    page.locator("#side-0 .near button").first.click()
    settled(page)
    assert sum("/places/" in url for url in drawn) == 1
    assert "The cross is the image" in words.text_content()


def test_one_model_or_both_are_shown(page):
    first, second = page.locator("#side-0"), page.locator("#side-1")
    assert first.is_visible()
    assert second.is_visible()
    assert abs(first.bounding_box()["y"] - second.bounding_box()["y"]) < 2
    page.focus("input[name=view]:checked")
    page.keyboard.press("ArrowRight")
    assert first.is_visible()
    assert not second.is_visible()
    page.keyboard.press("ArrowRight")
    assert not first.is_visible()
    assert second.is_visible()


def test_a_file_that_is_no_image_is_said_in_words(open_page, address, tmp_path):
    # Not by the fixture: a browser logs every refusal.
    context_page = open_page(address, allowed=HERE)
    until(context_page, READY)
    (tmp_path / "large.png").write_bytes(bytes(33 * 2**20))
    context_page.set_input_files("#file", tmp_path / "large.png")
    context_page.wait_for_selector("#trouble:not([hidden])")
    assert "make it smaller" in context_page.inner_text("#trouble")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_drawn(explore, address, theme):
    page = explore(address, color_scheme=theme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[theme]


def test_every_picture_has_words_and_every_control_a_name(page):
    settled(page)
    assert page.locator("img:visible:not([alt]), img:visible[alt='']").count() == 0
    unnamed = page.evaluate(
        """() => {
            const named = (one) => one.getAttribute('aria-label') || one.title || one.textContent.trim()
                || one.closest('label')?.textContent.trim();
            return [...document.querySelectorAll('button, select, input, canvas')].filter((one) => !named(one)).map(
                (one) => one.outerHTML);
        }"""
    )
    assert unnamed == []


def test_pictures_load(page, sides):
    until(
        page,
        """() => {
            const all = [...document.querySelectorAll('.near img')];
            return all.length === 24 && all.every((one) => one.complete && one.naturalWidth === 28);
        }""",
    )
    # A browser keeps pictures, and later another explorer has this port: whose they are is in the address.
    manifest = sides[0].exhibit.images.manifest_sha256
    addresses = page.locator("#query img, .near img, #gallery img").evaluate_all(
        "all => all.map((one) => one.src)"
    )
    assert len(addresses) == 85
    assert all(address.endswith(f"?of={manifest[:16]}") for address in addresses)


def test_what_more_has_brought_and_the_focus_stay_while_votes_are_counted(
    explore, serve, tmp_path, monkeypatch
):
    monkeypatch.setattr(Votes, "steps", lambda _: iter(()))
    bank = rows.make(tmp_path / "bank", labels=[0, 1] * 100, names=("a", "b"))
    page = explore(serve([Side(Chosen(bank, None, "gone"), Exhibit(bank, None, missing="gone"))]))
    page.click("#more")
    until(page, "document.querySelectorAll('#gallery button').length === 120")
    page.locator("#gallery button").nth(100).focus()
    page.wait_for_timeout(2500)
    assert "0 of 200" in page.inner_text("#count")
    assert page.locator("#gallery button").count() == 120
    assert page.evaluate("document.activeElement.dataset.image") == "100"


def test_on_a_narrow_screen_nothing_is_beside_the_page(explore, address):
    page = explore(address, viewport={"width": 390, "height": 800})
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_with_a_token_the_page_works_and_without_it_does_not(explore, serve, sides, browser):
    address = serve(sides[:1], token="of-this-test")
    page = explore(f"{address}/?token=of-this-test")
    assert page.url.startswith(f"{address}/#image=")
    assert page.locator("#side-1").count() == 0
    context = browser.new_context()
    assert context.new_page().goto(address).status == 401
    context.close()


def test_hostile_names_are_text(explore, serve, tmp_path):
    bank = rows.make(
        tmp_path / "bank",
        labels=[0, 1] * 10,
        names=(ATTACK, TURNED),
        keys=[f"{ATTACK}/{row}\udcff.png" for row in range(20)],
        model=ATTACK,
        split=ATTACK,
    )
    page = explore(serve([Side(Chosen(bank, None, ATTACK), Exhibit(bank, None, missing=ATTACK))]))
    assert page.inner_text("#model-0") == ATTACK
    assert page.inner_text("#query-name") == ATTACK
    assert "\\xff" in page.inner_text("#query-key")
    assert page.locator("select[name=class] option").all_inner_texts() == ["all", ATTACK, "left\\u202eright"]
    page.select_option("select[name=class]", "left\\u202eright")
    until(page, "document.getElementById('count').textContent.startsWith('10 images')")
    assert page.locator("img[onerror], img[src=x]").count() == 0
    # Without pictures and without a model: said, and not offered.
    assert page.locator("#file").count() == 0
    assert ATTACK in page.inner_text("#drop")
    assert page.locator(".near .none").count() == 12


def test_a_thousand_classes_are_found_by_name(explore, serve, tmp_path):
    labels = [row % 1000 for row in range(2000)]
    names = [f"class of {number}" for number in range(999)] + ["class of 7"]
    bank = rows.make(tmp_path / "bank", labels=labels, names=names)
    page = explore(serve([Side(Chosen(bank, None, "gone"), Exhibit(bank, None, missing="gone"))]))
    assert page.locator("#classes option").count() == 1000
    for typed, label in (("class of 512", 512), ("class of 7 (class 999)", 999), ("class of 7 (class 7)", 7)):
        page.fill("input[name=class]", typed)
        until(page, f"document.querySelector('#gallery button')?.dataset.image === '{label}'")
        assert page.inner_text("#count").startswith("2 images")


def test_pictures_that_cannot_be_read_are_left_out_with_a_word(address, sides):
    shown = Image.open(io.BytesIO(sides[0].exhibit.picture(3)))
    assert max(shown.size) == 28


def test_the_page_has_no_colours_of_its_own():
    # Those of the report are held to what can be read, in both themes.
    css = (files("carp_eval.report") / "templates" / "explore.css").read_text(encoding="utf-8")
    assert not re.search(r"#[0-9a-f]{3,8}\b|rgb|hsl", css.replace("#more", ""))
    assert set(re.findall(r"var\(--(\w+)\)", css)) <= {
        *("paper", "panel", "ink", "muted", "line", "link", "right", "wrong", "tint"),
    }
