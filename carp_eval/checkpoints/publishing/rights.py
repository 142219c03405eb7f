"""Whether a model may be published, and under which licence."""

from carp_eval.cards import licences
from carp_eval.errors import UsageError
from carp_eval.models.model import Model

ANYWAY = "if you have the right all the same, say --i-have-the-right"


def licence(model: Model, asked: str | None, *, i_have_the_right: bool) -> str:
    """Return the licence that a model is published under; empty where it is unknown.

    A run of `carp train` is its user's, who alone can say under which licence it goes: nothing is assumed. A model with
    a card goes under the licence of its makers, if that lets others publish it. Of any other, nobody knows whose it is.

    Args:
        model: The model.
        asked: SPDX identifier that the user gave.
        i_have_the_right: Whether the user says that he may publish it, whatever is known of it.

    Raises:
        UsageError: If it may not be published, or the user must say more.
    """
    if asked is not None:
        licences.check(asked)
    card = model.card
    if i_have_the_right:
        return asked or (card.licence if card else "")
    if card is not None:
        return _of_card(model, card.licence, asked, publishable=card.publishable, note=card.licence_note)
    if model.folder is None:
        raise UsageError(
            f"nobody told under which licence {model.name} is, nor whose it is, so it is not pushed; {ANYWAY}, and "
            "--licence"
        )
    if asked is None:
        raise UsageError(
            f"{model.name} is yours: say with --licence under which licence others get it, by its SPDX identifier "
            "(--licence apache-2.0, --licence cc-by-nc-4.0)"
        )
    return asked


def _of_card(model: Model, known: str, asked: str | None, *, publishable: bool, note: str) -> str:
    noted = f" ({note})" if note else ""
    if not known:
        raise UsageError(f"nobody told a licence of {model.name}{noted}, so it is not pushed; {ANYWAY}")
    if not publishable:
        raise UsageError(
            f"the licence of {model.name}, {known}{noted}, does not let others publish it; {ANYWAY}"
        )
    if asked is not None and asked.lower() != known.lower():
        raise UsageError(
            f"{model.name} is under {known}, and goes on under it: leave --licence out; {ANYWAY}"
        )
    return known
