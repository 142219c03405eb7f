"""Options of `carp eval` that are more than a value for the card."""

import json
import sys

import pytest

from carp_eval.commands import options
from carp_eval.commands.app import main


@pytest.fixture
def carp(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))

    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["carp", "eval", *arguments, "-m", "random:digits", "--dry-run", "--json"]
        )
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_all_images_of_a_class_are_a_number_of_shots_too(carp):
    code, out, told = carp("fewshot", "--variant", "inat", "--n", "full", "--n", "4", "--n", "1", "--n", "4")
    assert code == 0, told
    assert json.loads(out)["n"] == [1, 4, "full"]


@pytest.mark.parametrize("wrong", ["0", "-1", "all", "1.5", ""])
def test_other_numbers_of_shots_are_refused(carp, wrong):
    code, _, told = carp("fewshot", f"--n={wrong}")
    assert code == 2
    assert "--n takes a number of images, 1 or more, or full" in told


def test_machines_do_not_learn_from_all(carp):
    code, _, told = carp("fewshot", "--variant", "pcl", "--n", "full")
    assert code == 2
    assert "full" in told


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("1B", 1),
        ("500MB", 500_000_000),
        ("4GiB", 4 * 2**30),
        ("4G", 4 * 2**30),
        ("1.5 gib", 3 * 2**29),
        ("2K", 2048),
        ("1TB", 10**12),
    ],
)
def test_memory_is_read_with_its_unit(text, size):
    assert options.memory_size(text) == size


@pytest.mark.parametrize("wrong", ["", "4 apples", "-1GB", "0", "GiB", "3iB", "1e9", "4GG"])
def test_what_is_no_amount_of_memory_is_refused(carp, wrong):
    code, _, told = carp("knn", f"--memory={wrong}")
    assert code == 2
    assert "--memory takes an amount" in told


def test_a_search_in_bf16_is_of_the_card_and_memory_is_not(carp):
    plain = json.loads(carp("knn", "--memory", "1GiB")[1])
    assert "search" not in plain
    assert plain == json.loads(carp("knn")[1]) == json.loads(carp("knn", "--search", "exact")[1])
    assert json.loads(carp("knn", "--search", "bf16")[1]) == plain | {"search": "bf16"}
