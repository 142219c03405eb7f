import json

import pytest
from typer.testing import CliRunner

from carp_eval.commands.app import app
from carp_eval.errors import CarpError


def planned(*arguments):
    """Return what a command would run."""
    told = CliRunner().invoke(app, ["eval", *arguments, "-m", "random:digits", "--dry-run", "--json"])
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def test_options_change_what_the_card_says_of_a_linear_head():
    plan = planned("linear", "--variant", "swav", "--epochs", "3", "--lr", "0.7", "--train-batch", "12")
    assert (plan["epochs"], plan["learning_rate"], plan["batch_size"]) == (3, 0.7, 12)
    assert plan["mode"] == "augmented"
    with pytest.raises(CarpError, match="learning_rate"):
        planned("linear", "--lr", "0.7")


def test_options_say_how_much_is_trained_on_and_how_fast():
    assert planned("semisup")["fraction"] == 0.01
    plan = planned("semisup", "--images-per-class", "13", "--list", "names.txt")
    assert (plan["fraction"], plan["images_per_class"], plan["image_list"]) == (None, 13, "names.txt")
    plan = planned("finetune", "--fraction", "0.1", "--lr", "0.3", "--head-lr", "2")
    assert plan["fraction"] == 0.1
    assert [(rates["trunk"], rates["head"]) for rates in plan["rates"]] == [(0.3, 2)]


def test_a_plan_has_the_splits_that_would_be_used():
    plan = planned("knn", "-d", "pets")
    assert (plan["bank_split"], plan["query_split"], plan["queries"]) == ("trainval", "test", "pets")
    plan = planned("knn", "-d", "imagenet", "--queries", "imagenet-real")
    assert (plan["bank_split"], plan["query_split"]) == ("train", "validation")
    assert plan["queries"] == "imagenet-real"


def test_one_temperature_takes_the_place_of_several_of_the_card(tmp_path):
    card = tmp_path / "grid.toml"
    card.write_text('extends = "knn@dino"\nvariant = "grid"\ntemperatures = [0.1, 1.0]\n')
    assert planned("knn", "--variant", str(card))["temperatures"] == [0.1, 1.0]
    plan = planned("knn", "--variant", str(card), "--temperature", "0.5")
    assert (plan["temperature"], plan["temperatures"]) == (0.5, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fraction", "0.1", "--images-per-class", "3"], "give one"),
        (["--lr", "0.1"], "go together"),
        (["--fraction", "1.5"], "fraction"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    for command in ("semisup", "finetune"):
        with pytest.raises(CarpError, match=message):
            planned(command, *options)
