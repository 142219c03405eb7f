import inspect

import pytest

from carp_eval import errors


def test_every_error_is_a_carp_error_and_drawn_in_the_tree():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert len(classes) > 5
    for error in classes:
        assert issubclass(error, errors.CarpError)
        assert error.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cifr10", "Did you mean cifar10?"), ("zzzzzz", "Known: cifar10, digits.")],
)
def test_an_unknown_name_hears_of_what_is_near_or_of_all_there_is(name, expected):
    assert expected in str(errors.UnknownNameError("data set", name, ["digits", "cifar10"]))
