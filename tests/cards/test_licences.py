import pytest

from carp_eval.cards import licences, loading, shelf
from carp_eval.errors import UsageError


def test_the_cards_of_the_zoo_agree_on_which_licences_let_others_publish():
    cards = [loading.checkpoint_card(name) for name in shelf.names(shelf.ZOO)]
    told = [card for card in cards if card.licence]
    assert len(told) > 20
    assert [card.licence for card in told if card.publishable != licences.lets_publish(card.licence)] == []


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("mit", True), ("CC-BY-NC-4.0", True), ("cc-by-nd-4.0", False), ("mine", False), ("", False)],
)
def test_a_licence_that_is_not_known_lets_nobody_publish(licence, expected):
    assert licences.lets_publish(licence) is expected


def test_what_is_no_identifier_is_refused():
    assert licences.check("CC-BY-4.0") == "CC-BY-4.0"
    with pytest.raises(UsageError, match="SPDX"):
        licences.check("my own")
