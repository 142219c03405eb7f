from dataclasses import replace
from pathlib import Path

import pytest

from carp_eval.checkpoints.publishing.rights import licence
from carp_eval.errors import UsageError
from tests.checkpoints.publishing import scene

OPEN = {"licence": "Apache-2.0", "licence_note": "", "publishable": True}
CLOSED = {"licence": "CC-BY-NC-4.0", "publishable": False}
UNKNOWN = {"licence": "", "publishable": False}


@pytest.fixture(scope="module")
def plain():
    return scene.model()


def released(plain, card):
    return replace(plain, card=scene.card(**card))


@pytest.mark.parametrize("asked", [None, "apache-2.0", "Apache-2.0"])
def test_a_licence_that_lets_others_publish_goes_on(plain, asked):
    assert licence(released(plain, OPEN), asked, i_have_the_right=False) == "Apache-2.0"


@pytest.mark.parametrize(
    ("card", "asked", "words"),
    [
        (CLOSED, None, "CC-BY-NC-4.0.*does not let others"),
        (CLOSED, "mit", "does not let others"),
        (UNKNOWN, None, "nobody told a licence"),
        (UNKNOWN, "mit", "nobody told a licence"),
        (OPEN, "mit", "goes on under it"),
    ],
)
def test_what_others_made_is_not_pushed_without_the_right(plain, card, asked, words):
    model = released(plain, card)
    with pytest.raises(UsageError, match=rf"(?s){words}.*--i-have-the-right"):
        licence(model, asked, i_have_the_right=False)
    assert licence(model, asked, i_have_the_right=True) == (asked or card["licence"])


@pytest.mark.parametrize("asked", [None, "mit"])
def test_a_model_that_nobody_knows_is_not_pushed_without_the_right(plain, asked):
    with pytest.raises(UsageError, match=r"nobody told under which licence.*--i-have-the-right"):
        licence(plain, asked, i_have_the_right=False)
    assert licence(plain, asked, i_have_the_right=True) == (asked or "")


def test_a_run_of_ones_own_goes_under_what_one_says(plain):
    own = replace(plain, folder=Path("runs/a-run"))
    assert licence(own, "cc-by-4.0", i_have_the_right=False) == "cc-by-4.0"
    with pytest.raises(UsageError, match="is yours: say with --licence"):
        licence(own, None, i_have_the_right=False)


@pytest.mark.parametrize("asked", ["", "my own", "mit\nlicense: x", "a/b", "-x"])
def test_what_is_no_identifier_is_refused(plain, asked):
    with pytest.raises(UsageError, match="SPDX"):
        licence(released(plain, OPEN), asked, i_have_the_right=True)
