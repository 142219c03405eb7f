import pytest

from carp_eval.errors import UsageError
from carp_eval.pretrain import grid


def test_values_are_parted_by_commas_outside_of_quotes_and_brackets():
    found = grid.parse(
        ["a.b=1, 2,3e-4", 'name="x,y",z', "scale=[0.1, 1.0],[0.2, 1.0]", "t={a=1, b=[2, 3]},4"]
    )
    assert found == {
        "a.b": ("1", "2", "3e-4"),
        "name": ('"x,y"', "z"),
        "scale": ("[0.1, 1.0]", "[0.2, 1.0]"),
        "t": ("{a=1, b=[2, 3]}", "4"),
    }


@pytest.mark.parametrize("wrong", ["a", "a=", "=1", "a=1,,2", "a=1,"])
def test_a_setting_without_values_is_refused(wrong):
    with pytest.raises(UsageError, match="KEY=VALUE"):
        grid.parse([wrong])


def test_a_key_or_a_value_comes_once():
    with pytest.raises(UsageError, match="names a twice"):
        grid.parse(["a=1", "a=2"])
    with pytest.raises(UsageError, match="value twice"):
        grid.parse(["a=1,1"])


def test_every_choice_is_there_and_the_last_key_changes_fastest():
    assert grid.combinations({"a": ("1", "2"), "b": ("x",), "c": ("u", "v")}) == [
        {"a": "1", "b": "x", "c": "u"},
        {"a": "1", "b": "x", "c": "v"},
        {"a": "2", "b": "x", "c": "u"},
        {"a": "2", "b": "x", "c": "v"},
    ]
    assert grid.combinations({}) == [{}]
