import json

import pytest
from typer.testing import CliRunner

from carp_eval.commands.app import app
from carp_eval.data.table import TABLE
from carp_eval.errors import UnknownNameError, UsageError
from tests.data.layouts import copies
from tests.data.test_native import SMALL, shrink


@pytest.fixture
def carp(monkeypatch, tmp_path):
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["data", *arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result.stdout

    return run


def test_the_list_fits_80_columns_and_has_every_name_whole(carp):
    shown = carp("list")
    assert all(len(line) <= 80 for line in shown.splitlines())
    first = [line.split()[0] for line in shown.splitlines() if line.strip()]
    assert set(TABLE) <= set(first)


def test_the_list_as_json_has_all_that_is_known(carp):
    rows = {row["name"]: row for row in json.loads(carp("list", "--json"))}
    assert rows.keys() == TABLE.keys()
    assert rows["pets"]["splits"] == ["trainval 3,680", "test 3,669"]
    assert rows["pets"]["metric"] == "mean per class"
    assert "OxfordIIITPet" in rows["pets"]["to get it"]


def test_one_data_set_is_told_in_full(carp):
    shown = carp("list", "pets")
    assert "trainval 3,680, test 3,669" in shown
    assert "CC BY-SA 4.0" in shown
    assert json.loads(carp("list", "pets", "--json"))["transfer"] == "trainval / test"
    result = CliRunner().invoke(app, ["data", "list", "pet"])
    assert isinstance(result.exception, UnknownNameError)


@pytest.fixture
def pets(tmp_path, monkeypatch):
    _, splits, classes = SMALL["pets"]
    shrink(monkeypatch, "pets", splits, classes)
    return copies.write_pets(tmp_path / "root")


def test_a_whole_copy_exits_with_0(carp, pets):
    shown = carp("check", "pets", "--data-root", str(pets.parent), "--decode")
    assert "4 of 4" in shown
    assert "3 of 3" in shown
    assert "NOT" not in shown
    assert "pets is whole" in shown


def test_an_incomplete_copy_exits_with_1_and_says_what_is_missing(carp, pets):
    (pets / "images" / "Bombay_1.jpg").unlink()
    (pets / "images" / "Abyssinian_3.jpg").write_bytes(b"")
    shown = carp("check", "pets", "--data-root", str(pets.parent), "--decode", code=1)
    assert "test: images/Bombay_1.jpg is not there" in shown
    assert "trainval: images/Abyssinian_3.jpg: " in shown
    assert "pets is not whole. To get it:" in shown
    content = json.loads(carp("check", "pets", "--data-root", str(pets.parent), "--json", code=1))
    assert content["whole"] is False
    assert content["splits"][1]["missing"] == ["images/Bombay_1.jpg"]


def test_what_is_not_here_exits_with_1(carp):
    assert "torchvision's download and the makers' links are dead" in carp("check", "cars", code=1)


def test_unknown_names_are_errors(carp):
    result = CliRunner().invoke(app, ["data", "check", "pet"])
    assert isinstance(result.exception, UnknownNameError)


@pytest.mark.parametrize("spelling", ["folder:photos", "pets:photos", "hf:some/data"])
def test_what_no_table_knows_is_pointed_to_what_does_look_at_it(carp, spelling):
    result = CliRunner().invoke(app, ["data", "check", spelling])
    assert isinstance(result.exception, UsageError)
    assert f"carp extract -d {spelling} --skip-bad" in str(result.exception)
