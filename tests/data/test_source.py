import pytest

from carp_eval.data.source import resolve
from carp_eval.errors import DataError


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("train", ("train", "test"), "train"),
        ("val", ("train", "validation"), "validation"),
        ("validation", ("train", "val"), "val"),
        ("valid", ("train", "dev", "val"), "val"),
        ("val", ("validation", "val"), "val"),
        ("testing", ("train", "test"), "test"),
        ("test", ("train", "valid"), "valid"),
        ("test", ("train", "validation", "test"), "test"),
        ("train", ("Train", "Val"), "Train"),
        ("Unlabeled", ("train", "Unlabeled"), "Unlabeled"),
    ],
)
def test_a_split_is_found_by_its_name_or_an_alias(asked, there, found):
    assert resolve(asked, there, name="pets") == found


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        # Scores on the test set must not pass for scores on validation.
        ("validation", ("train", "test")),
        ("train", ("test",)),
        ("tain", ("train",)),
        ("test", ("train",)),
    ],
)
def test_a_missing_split_is_an_error_that_lists_what_there_is(asked, there):
    with pytest.raises(DataError, match=rf"pets has no split '{asked}', only {', '.join(there)}"):
        resolve(asked, there, name="pets")


def test_the_lack_of_anything_to_score_on_is_explained():
    with pytest.raises(DataError, match="needs a second split"):
        resolve("test", ("train",), name="pets")
