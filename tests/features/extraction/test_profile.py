"""The profile of an extraction: stages that are slow on purpose, named and measured."""

import time

import pytest

from carp_eval.features import shards
from carp_eval.features.extraction.profile import Profile
from tests.features.scene import Net, Noise, take


class SlowToRead(Noise):
    def image(self, index):
        time.sleep(0.01)
        return super().image(index)


class SlowToDecode(Noise):
    """Works for an image instead of waiting for it, in what a decoder does."""

    def image(self, index):
        from carp_eval.data import stopwatch

        with stopwatch.lap("decode"):
            started = time.thread_time()
            while time.thread_time() - started < 0.01:
                pass
        return super().image(index)


def profiled(home, images=None, network=None, **options):
    profile = Profile()
    take(home, images, network, profile=profile, **options)
    return profile


def stage(profile, name):
    (found,) = (stage for stage in profile.stages() if stage.name == name)
    return found


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_slow_disk_is_named(tmp_path, num_workers):
    profile = profiled(tmp_path, SlowToRead(), num_workers=num_workers)
    assert profile.bottleneck() == "read"
    assert 50 < stage(profile, "read").one <= 100
    assert stage(profile, "read").all == stage(profile, "read").one * max(1, num_workers)
    assert "Reading bounds" in profile.verdict()
    assert "--workers" in profile.verdict() or "more cores" in profile.verdict()
    # The first batch of four only starts the clock.
    assert profile.images == 46
    assert profile.loaded == profile.written == 50


def test_slow_decoding_is_named_and_not_taken_for_reading(tmp_path):
    profile = profiled(tmp_path, SlowToDecode())
    assert profile.bottleneck() == "decode"
    assert 80 < stage(profile, "decode").one <= 100
    assert stage(profile, "read").one > 200
    assert profile.verdict().startswith("Decoding bounds")


def test_a_slow_network_is_named(tmp_path):
    profile = profiled(tmp_path, network=Net(delay=0.04).eval())
    assert profile.bottleneck() == "forward"
    assert 50 < stage(profile, "forward").one <= 100
    assert 50 < profile.rate <= 100
    assert 0.5 < stage(profile, "forward").share <= 1
    assert "The forward pass bounds" in profile.verdict()


def test_a_slow_disk_of_the_bank_is_named(tmp_path, monkeypatch):
    write = shards.write

    def slowly(*args, **options):
        time.sleep(0.2)
        return write(*args, **options)

    monkeypatch.setattr(shards, "write", slowly)
    profile = profiled(tmp_path)
    assert profile.bottleneck() == "write"
    assert stage(profile, "write").one <= 40
    assert "Writing bounds" in profile.verdict()


def test_times_add_up_to_no_more_than_the_time(tmp_path):
    started = time.perf_counter()
    profile = profiled(tmp_path, SlowToRead(), Net(delay=0.02).eval())
    whole = time.perf_counter() - started
    assert profile.starting + profile.seconds <= whole
    assert profile.waiting + profile.forward + profile.stalled <= profile.seconds
    assert profile.rate == pytest.approx(46 / profile.seconds)


def test_of_a_bank_that_is_there_nothing_is_told(tmp_path):
    take(tmp_path)
    profile = profiled(tmp_path)
    assert profile.stages() == []
    assert profile.bottleneck() == ""


def test_one_batch_is_too_few_to_tell(tmp_path):
    profile = profiled(tmp_path, Noise(4))
    assert profile.bottleneck() == ""
    assert "too few images" in profile.verdict()


def test_who_does_not_ask_gets_the_same_bank(tmp_path):
    take(tmp_path / "a")
    profiled(tmp_path / "b", num_workers=1)
    first, second = (sorted((tmp_path / name).glob("*/features-*")) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
