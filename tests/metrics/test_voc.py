import math

import numpy as np
import pytest

from carp_eval.metrics import voc

# Ranked: a hit, a miss, one that is difficult, a hit, a miss. All points: 1 and, of the second, 2/4 or, without the
# difficult one, 2/3.
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
TARGETS = np.array([1, -1, 0, 1, -1], dtype=np.int8)


def by_loops(scores, targets, difficult):
    """All points, by a list that is walked: at each recall the best precision from there on."""
    ranked = sorted(zip(scores.tolist(), targets.tolist(), strict=True), reverse=True)
    if difficult == "ignored":
        ranked = [item for item in ranked if item[1] != 0]
    precisions, found = [], 0
    for place, (_, target) in enumerate(ranked, start=1):
        if target == 1:
            found += 1
            precisions.append(found / place)
    if not found:
        return math.nan
    return sum(max(precisions[place:]) for place in range(found)) / found


@pytest.mark.parametrize(
    ("difficult", "wanted"), [("negative", (1 + 2 / 4) / 2), ("ignored", (1 + 2 / 3) / 2)]
)
def test_difficult_images_by_hand(difficult, wanted):
    assert voc.average_precision(SCORES, TARGETS, difficult=difficult) == pytest.approx(wanted, abs=1e-15)


def test_precision_is_the_best_from_there_on_by_hand():
    # Found at places 3, 4 and 5: precisions 1/3, 2/4, 3/5; the best from each on is 3/5.
    targets = np.array([-1, -1, 1, 1, 1], dtype=np.int8)
    assert voc.average_precision(SCORES, targets, difficult="negative") == pytest.approx(0.6, abs=1e-15)


def test_equals_are_taken_in_one_step():
    level = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    targets = np.array([-1, 1, -1, -1, 1], dtype=np.int8)
    assert voc.average_precision(level, targets, difficult="negative") == pytest.approx(0.4, abs=1e-15)
    assert voc.average_precision(level, targets[[0, 3, 2, 1, 4]], difficult="negative") == pytest.approx(0.4)


def test_a_class_that_no_image_shows_has_no_score():
    assert math.isnan(
        voc.average_precision(SCORES, np.array([-1, -1, 0, -1, -1], dtype=np.int8), difficult="ignored")
    )


def scene(images=60, classes=4):
    random = np.random.default_rng(1)
    targets = random.choice(np.array([1, 0, -1], dtype=np.int8), (images, classes), p=(0.2, 0.1, 0.7))
    targets[:, 3] = -1
    targets[7, 3] = 1
    return random.normal(size=(images, classes)) + targets, targets


@pytest.mark.parametrize("difficult", ["negative", "ignored"])
def test_many_images_are_scored_as_by_loops(difficult):
    scores, targets = scene()
    for c in range(4):
        found = voc.average_precision(scores[:, c], targets[:, c], difficult=difficult)
        assert found == pytest.approx(by_loops(scores[:, c], targets[:, c], difficult), abs=1e-14)


@pytest.mark.parametrize("difficult", ["negative", "ignored"])
@pytest.mark.parametrize("ties", [False, True])
def test_a_resampled_test_set_is_scored_as_if_its_images_were_written_out(difficult, ties):
    scores, targets = scene()
    if ties:
        scores = scores.round(0)
    random = np.random.default_rng(3)
    drawn = random.integers(60, size=(40, 60))
    times = np.stack([np.bincount(row, minlength=60) for row in drawn])
    nothing = 0
    for c in range(4):
        levels = voc._Levels.of(scores[:, c], targets[:, c], difficult)
        assert levels is not None
        for value, row in zip(levels.average_precision(times), drawn, strict=True):
            if (targets[row, c] == 1).any():
                wanted = voc.average_precision(scores[row, c], targets[row, c], difficult=difficult)
                assert value == pytest.approx(wanted, abs=1e-13)
            else:
                assert math.isnan(value)
                nothing += 1
    assert nothing


def test_intervals_are_those_of_a_plain_bootstrap(monkeypatch):
    monkeypatch.setattr(voc, "CHUNK_VALUES", 60 * 7)
    scores, targets = scene()
    found = voc.intervals(scores, targets, difficult="ignored", seed=0, resamples=3000)
    random = np.random.default_rng(99)
    plain = np.full((3000, 4), np.nan)
    for values in plain:
        row = random.integers(60, size=60)
        values[:] = [by_loops(scores[row, c], targets[row, c], "ignored") for c in range(4)]
    for column, interval in zip(plain.T, found.per_class, strict=True):
        assert interval == pytest.approx(np.nanquantile(column, (0.025, 0.975)), abs=0.03)
    means = np.nanmean(plain, axis=1)
    assert found.mean == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.02)
    point = np.nanmean([by_loops(scores[:, c], targets[:, c], "ignored") for c in range(4)])
    assert found.mean.low < point < found.mean.high
    assert found == voc.intervals(scores, targets, difficult="ignored", seed=0, resamples=3000)
    assert found != voc.intervals(scores, targets, difficult="ignored", seed=1, resamples=3000)


def test_a_class_that_no_image_shows_has_no_interval():
    scores, targets = scene()
    targets[7, 3] = -1
    with_it = voc.intervals(scores, targets, difficult="negative", seed=0)
    assert all(math.isnan(end) for end in with_it.per_class[3])
    assert with_it.mean == voc.intervals(scores[:, :3], targets[:, :3], difficult="negative", seed=0).mean
