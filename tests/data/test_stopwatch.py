"""Time by stage: who asked for it gets all of it, and nobody else's."""

from carp_eval.data import stopwatch


def test_of_two_who_count_the_same_each_keeps_its_own():
    with stopwatch.running() as outer:
        with stopwatch.running() as inner, stopwatch.lap("read"):
            pass
        assert outer == inner
        with stopwatch.lap("decode"):
            pass
    assert set(outer) == {"read", "decode"}
    assert set(inner) == {"read"}
    assert not stopwatch.is_running()
