import csv
import hashlib
import io
import re

import pytest

from carp_eval.cards.published import PublishedCard
from carp_eval.report import leaderboard, leaderboard_files, leaderboard_page
from carp_eval.report.found import Found
from carp_eval.results import Score
from tests.report.records import Page, record

PAPER = PublishedCard.model_validate(
    {
        "version": 1,
        "summary": "",
        "document": "a-paper",
        "table": "Table 3",
        "columns": {
            "same": {
                "protocol": "knn", "dataset": "cifar10", "split": "test", "metric": "top1", "variant": "dino",
                "settings": {"k": 20},
            },
            "other": {
                "protocol": "knn", "dataset": "cifar10", "split": "testing", "metric": "top1", "variant": "swav",
                "settings": {"k": 20},
            },
            "untold": {
                "protocol": "knn", "dataset": "cifar10", "split": "test", "metric": "top1", "settings": {"k": 200},
            },
            "elsewhere": {"protocol": "knn", "dataset": "food101", "split": "test", "metric": "top1"},
        },
        "rows": [
            {"model": "theirs", "settings": {"epochs": 400}, "values": {"same": 70.0, "other": 71.0}},
            {"model": "swav-like", "values": {"other": 60.0}, "taken_from": "an older one"},
            {"model": "vague", "values": {"untold": 50.0}},
            {"model": "of-food", "values": {"elsewhere": 99.0}},
        ],
    }
)  # fmt: skip


def top1(value, k=20, **more):
    return Score(metric="top1", value=value, settings={"k": k}, **more)


def found(tmp_path, *results):
    return [Found(tmp_path / f"{number}.json", result) for number, result in enumerate(results)]


def of(model, *scores, **changes):
    return record(*scores, model=model, weights_sha256=(model * 64)[:64], data={"test": "2" * 64}, **changes)


def table(board):
    return {
        (line.model, line.source): {column.title: cell.value for column, cell in line.cells.items()}
        for line in board.lines
    }


def test_models_stand_beside_what_was_published(tmp_path):
    results = found(
        tmp_path, of("ours", top1(65.0, low=63.0, high=67.0)), of("worse", top1(40.0), top1(45.0, k=200))
    )
    board = leaderboard.board(results, [PAPER])
    assert [(line.model, line.source) for line in board.lines] == [
        ("theirs", "a-paper, Table 3"),
        ("ours", "measured"),
        ("swav-like", "a-paper, Table 3, from an older one"),
        ("worse", "measured"),
        ("vague", "a-paper, Table 3"),
    ]
    first, second = board.columns
    assert first.title == "knn@dino, cifar10 test: top1 (k = 20)"
    marks = {
        line.model: {column: cell.variant for column, cell in line.cells.items()} for line in board.lines
    }
    # Of two numbers of a row, the one of the same variant stands.
    assert marks["theirs"] == {first: ""}
    assert marks["swav-like"] == {first: "swav"}
    assert marks["vague"] == {second: "not told"}
    assert board.lines[0].told == "epochs 400"
    assert board.lines[1].cells[first].low == 63.0


def test_a_number_whose_settings_nobody_told_is_marked(tmp_path):
    told = PAPER.columns["same"].model_copy(update={"settings": {}})
    paper = PAPER.model_copy(update={"columns": PAPER.columns | {"same": told}})
    board = leaderboard.board(found(tmp_path, of("ours", top1(65.0), top1(66.0, k=200))), [paper])
    line = next(line for line in board.lines if line.model == "theirs")
    assert [cell.variant for cell in line.cells.values()] == ["k not told", "k not told"]


def test_an_order_does_not_depend_on_how_files_were_found(tmp_path):
    results = found(tmp_path, of("b", top1(50.0)), of("a", top1(50.0)), of("c", top1(60.0)))
    one, other = leaderboard.board(results, [PAPER]), leaderboard.board(results[::-1], [PAPER])
    assert one.lines == other.lines
    assert [line.model for line in one.lines if not line.is_published] == ["c", "a", "b"]


def test_a_copy_of_a_data_set_is_that_data_set(tmp_path):
    results = found(
        tmp_path,
        of("a", top1(50.0), dataset="cifar10:/a/copy", query_dataset="cifar10:/a/copy"),
        of("b", top1(60.0)),
    )
    board = leaderboard.board(results, [PAPER])
    assert len(board.columns) == 1
    assert "theirs" in {line.model for line in board.lines}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"card": {"kind": "knn", "k": [20], "temperature": 0.1}}, "temperature 0.1"),
        ({"data": {"test": "9" * 64}}, "scored images 99999999"),
        ({"dropped_leaks": True}, "near-duplicates left out yes"),
    ],
)
def test_numbers_that_do_not_mean_the_same_have_columns_of_their_own(tmp_path, changes, told):
    plain = of("a", top1(50.0)).model_copy(
        update={"card": {"kind": "knn", "k": [10, 20], "temperature": 0.07}}
    )
    other = of("b", top1(60.0)).model_copy(update={"card": plain.card} | changes)
    board = leaderboard.board(found(tmp_path, plain, other), [])
    assert len(board.columns) == 2
    assert {column.score for column in board.columns} == {"top1 (k = 20)"}
    assert any(told in column.conditions for column in board.columns), board.columns


def test_the_newest_number_of_a_model_counts_and_copies_are_one(tmp_path):
    newer = of("a", top1(60.0), finished="2026-11-21T11:00:00+00:00")
    board = leaderboard.board(found(tmp_path, newer, newer, of("a", top1(50.0))), [])
    assert [cell.value for line in board.lines for cell in line.cells.values()] == [60.0]
    assert board.older == 1


def test_baselines_without_weights_are_told_apart_by_their_names(tmp_path):
    nothing = {"weights_sha256": hashlib.sha256(b"").hexdigest()}
    results = [
        of("a", top1(value)).model_copy(update={"model": model, **nothing})
        for model, value in (("pixels:digits", 60.0), ("pixels:larger", 50.0))
    ]
    board = leaderboard.board(found(tmp_path, *results), [])
    assert {line.model: cell.value for line in board.lines for cell in line.cells.values()} == {
        "pixels:digits": 60.0,
        "pixels:larger": 50.0,
    }
    assert board.older == 0


def test_metrics_protocols_and_data_sets_are_chosen(tmp_path):
    results = found(
        tmp_path,
        of("a", top1(50.0), Score(metric="top5", value=90.0, settings={"k": 20})),
        of("a", Score(metric="nmi", value=30.0), protocol="cluster", variant="carp"),
        of("a", top1(20.0), query_dataset="food101", dataset="food101"),
    )

    def titles(**chosen):
        return [
            column.title.partition(" (")[0]
            for column in leaderboard.board(results, [PAPER], **chosen).columns
        ]

    assert titles(metrics=["top5"]) == ["knn@dino, cifar10 test: top5"]
    assert titles(protocol="cluster") == ["cluster@carp, cifar10 test: nmi"]
    assert titles(protocol="cluster@mteb") == []
    assert titles(dataset="food101") == ["knn@dino, food101 test: top1"]
    assert len(titles()) == 3
    board = leaderboard.board(results, [], sort="FOOD101 top1")
    assert leaderboard.sorted_by(board, "FOOD101 top1").dataset == "food101"
    assert leaderboard.sorted_by(board, "imagenet") is None


def test_images_of_another_data_set_are_not_held_against_published_ones(tmp_path):
    board = leaderboard.board(found(tmp_path, of("a", top1(50.0), dataset="food101")), [PAPER])
    assert [line.model for line in board.lines] == ["a"]
    assert board.columns[0].dataset == "cifar10, learnt from food101"


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "|cmd")


@pytest.mark.parametrize("name", FORMULAS)
def test_no_name_is_a_formula_for_a_spreadsheet(tmp_path, name):
    board = leaderboard.board(
        found(tmp_path, of(name, Score(metric="rankme", value=-1.5, low=-2.0, high=1.0))), []
    )
    head, row = csv.reader(io.StringIO(leaderboard_files.as_csv(board)))
    assert len(head) == len(row) == 7
    assert row[0].startswith("'")
    assert row[0].lstrip("' ").strip() == name.strip()
    # A number stays one.
    assert [float(cell) for cell in row[3:6]] == [-1.5, -2.0, 1.0]


def test_csv_holds_every_cell(tmp_path):
    board = leaderboard.board(found(tmp_path, of('a,"b"\n', top1(65.0, low=63.0, high=67.0))), [PAPER])
    head, *rows = csv.reader(io.StringIO(leaderboard_files.as_csv(board)))
    assert head[3] == "knn@dino, cifar10 test: top1 (k = 20)"
    assert [row[0] for row in rows] == ["theirs", 'a,"b" ', "swav-like"]
    assert rows[1][3:] == ["65.0000", "63.0000", "67.0000", ""]
    assert rows[2][3:] == ["60.0000", "", "", "swav"]


def test_markdown_keeps_hostile_names_in_their_cells(tmp_path):
    name = "x | y <img src=x> [a](javascript:b) `c`\nd"
    text = leaderboard_files.as_markdown(leaderboard.board(found(tmp_path, of(name, top1(65.0))), [PAPER]))
    rows = text.split("\n\n")[0].splitlines()
    assert len(rows) == 5
    # Bars that no backslash precedes are those between cells.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert "<img" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "60.00†" in text
    assert "†: published of another variant" in text


def test_a_page_holds_the_table_and_no_markup_of_others(tmp_path):
    hostile = '<script>alert(1)</script>"\x1b\u202e'
    board = leaderboard.board(found(tmp_path, of(hostile, top1(65.0, low=63.0, high=67.0))), [PAPER])
    path = tmp_path / "board.html"
    leaderboard_page.write(board, path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    rows = page.rows("3 rows")
    assert rows[1][0].startswith("<script>alert(1)</script>")
    assert rows[1][2] == "65.0063.0 to 67.0"
    assert rows[2][2] == "60.00†"
    assert page.all("abbr")[0]["attributes"]["title"].endswith("swav")


def test_a_hundred_results_of_many_columns_make_one_table(tmp_path):
    results = [
        of(
            f"model-{number}",
            *(top1(number / 2, k=k) for k in range(1, 21)),
            finished=f"2026-11-{number % 28 + 1:02d}",
        )
        for number in range(100)
    ]
    board = leaderboard.board(found(tmp_path, *results), [])
    assert (len(board.lines), len(board.columns)) == (100, 20)
    assert [line.model for line in board.lines[:2]] == ["model-99", "model-98"]


def test_what_was_judged_by_its_head_stands_in_the_line_of_the_same_model(tmp_path):
    trunk = of("a", top1(60.0), branch="teacher")
    head = record(
        Score(metric="rankme", value=12.0),
        model="a",
        branch="teacher",
        layer="projection",
        weights_sha256="f" * 64,
        protocol="labelfree",
        variant="rankme",
    )
    for results in ((trunk, head), (head, trunk)):
        (line,) = leaderboard.board(found(tmp_path, *results), []).lines
        assert line.told == "teacher, aaaaaaaa, with its head ffffffff"
        assert sorted(cell.value for cell in line.cells.values()) == [12.0, 60.0]
    # Of two trunks of one name, nobody knows whose head it is.
    again = record(top1(70.0), model="a", branch="teacher", weights_sha256="b" * 64, data={"test": "2" * 64})
    lines = leaderboard.board(found(tmp_path, again, head, trunk), []).lines
    assert [line.model for line in lines] == ["a", "a", "a"]
    # Its projection judged as the trunk was is another number, and no one's to choose between.
    other = of("a", top1(61.0), branch="teacher", layer="projection")
    lines = leaderboard.board(
        found(tmp_path, trunk, other.model_copy(update={"weights_sha256": "e" * 64})), []
    ).lines
    assert len(lines) == 2
