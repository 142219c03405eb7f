"""Which views are compared with which, in methods of a student and a teacher."""

from collections.abc import Sequence

from carp_eval.cards.recipe import ViewCard


def seen_by_teacher(cards: Sequence[ViewCard]) -> list[int]:
    """Return the numbers of the views that the teacher sees."""
    wanted = [card.to_teacher for card in cards for _ in range(card.count)]
    return [number for number, to_teacher in enumerate(wanted) if to_teacher]


def ordered(cards: Sequence[ViewCard]) -> list[tuple[int, int]]:
    """Return every pair of two different views, by number: one of the student, one that the teacher sees.

    With two views and both to the teacher these are the two directions of a symmetric loss; with one of them to the
    teacher there is one.
    """
    num_views = sum(card.count for card in cards)
    teacher = seen_by_teacher(cards)
    return [(own, other) for own in range(num_views) for other in teacher if own != other]
