"""The pages of a comparison and of a leaderboard in a real browser: sorted, searched, read in both themes."""

import numpy as np
import pytest

from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.evaluation.running import evaluate
from carp_eval.report import comparison, comparison_page, leaderboard, leaderboard_page
from carp_eval.report.found import Found
from carp_eval.results import Published, Score
from tests.report.records import record, saved

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}


@pytest.fixture(scope="module")
def comparison_address(tmp_path_factory, digit_folder):
    """Pixels and a random network on some digits, by neighbours: they differ on images that are at hand."""
    root = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARP_HOME", str(root / "home"))
        patch.chdir(root)
        sides = []
        for name in ("pixels:digits", "random:digits"):
            card = loading.protocol_card("knn", "dino", {"k": [1, 5]})
            result, path = evaluate(open_model(name), card, dataset=f"folder:{digit_folder}", leaks="ignore")
            sides.append(Found(path, result))
        compared = comparison.compare(*sides)
        comparison_page.write([compared], [f"{ATTACK}: nothing like it"], root / "page.html")
    wrong = len(compared.first_better) + len(compared.second_better)
    return (root / "page.html").as_uri(), wrong


@pytest.fixture(scope="module")
def board_address(tmp_path_factory):
    root = tmp_path_factory.mktemp("board")
    known = Published(value=76.5, delta=1.0, document=ATTACK, table="1", variant="swav", same_variant=False)
    found = []
    for number, value in enumerate((9.5, 77.25, 100.0, 61.0)):
        score = Score(
            metric="top1", value=value, low=value - 1, high=value, settings={"k": 20}, published=(known,)
        )
        scores = (score, Score(metric="top1", value=100 - value, settings={"k": 200}))
        name = ATTACK if number == 3 else f"model {number}"
        found.append(
            saved(root, record(*scores[: 1 + (number != 0)], model=name, weights_sha256=f"{number}" * 64))
        )
    leaderboard_page.write(leaderboard.board(found, []), root / "page.html")
    return (root / "page.html").as_uri()


def column(page, table, number):
    return page.locator(f"{table} tbody tr:visible > :nth-child({number})").all_inner_texts()


def test_a_leaderboard_sorts_by_any_column_with_empty_cells_last(open_page, board_address):
    page = open_page(board_address)
    head = page.locator("#board thead th:nth-child(3)")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(text.split()[0]) for text in column(page, "#board", 3)]
    assert values == [100.0, 77.25, 61.0, 9.5]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text.split()[0]) for text in column(page, "#board", 3)] == [9.5, 61.0, 77.25, 100.0]
    for _ in range(2):
        page.locator("#board thead th:nth-child(4) button").click()
        assert column(page, "#board", 4)[-1] == ""
    assert page.locator("#board th[aria-sort]").count() == 1


def test_a_leaderboard_is_searched(open_page, board_address):
    page = open_page(board_address)
    page.fill("input[type=search]", "MODEL 1111")
    assert [text.split("\n")[0] for text in column(page, "#board", 1)] == ["model 1 11111111"]
    page.keyboard.press("Enter")
    assert page.url == board_address, "a search leads nowhere"
    page.fill("input[type=search]", "")
    assert len(column(page, "#board", 1)) == 4


def test_hostile_names_are_read_and_do_nothing(open_page, board_address, comparison_address):
    page = open_page(board_address)
    assert any(ATTACK in text for text in column(page, "#board", 1))
    assert page.locator("script").count() == 1
    assert page.locator("img").count() == 0
    page = open_page(comparison_address[0])
    assert ATTACK in page.locator(".word").first.inner_text()
    assert page.locator("script").count() == 1


def test_a_comparison_shows_a_picture_of_each_image_that_the_two_differ_on(open_page, comparison_address):
    address, wrong = comparison_address
    page = open_page(address)
    sizes = page.evaluate(
        "[...document.images].map((one) => [one.complete, one.naturalWidth, one.alt !== ''])"
    )
    assert sizes == [[True, 28, True]] * wrong
    assert wrong > 2


def test_the_classes_of_a_comparison_sort_by_gain_and_its_keys_open(open_page, comparison_address):
    page = open_page(comparison_address[0])
    classes = page.locator("table").nth(1)
    head = classes.locator("thead th").nth(4)
    told = [float(text) for text in classes.locator("tbody td:nth-child(5)").all_inner_texts()]
    assert told == sorted(told)
    head.locator("button").click()
    sorted_ = [float(text) for text in classes.locator("tbody td:nth-child(5)").all_inner_texts()]
    assert sorted_ == sorted(told, reverse=True)
    assert np.ptp(told) > 0
    page.locator("details summary").first.click()
    assert page.locator("details li").first.is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_pages_are_drawn_in_both_themes_and_fit_a_narrow_window(
    open_page, comparison_address, board_address, theme
):
    for address in (comparison_address[0], board_address):
        page = open_page(address, color_scheme=theme, viewport={"width": 360, "height": 640})
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == PAPER[theme]
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
