import itertools

import numpy as np
import pytest
import torch

from carp_eval import seeds
from carp_eval.cards import loading
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import UsageError
from carp_eval.evaluation import grid_rows, linear, linear_grid, scaled
from carp_eval.evaluation.grid_rows import InMemory, Windowed
from carp_eval.evaluation.job import Job, Settings
from carp_eval.evaluation.runners import RUNNERS
from carp_eval.features import rows as features_rows
from carp_eval.features import stored
from tests.features.search.searched import Kept
from tests.features.written_bank import written
from tests.private_memory import on_linux, watched

GRID = {"learning_rates": [1e-3, 0.1, 1.0], "weight_decays": [0.0, 0.1], "epochs": 3, "batch_size": 16}
HOW = ["plain", "unit", "standardised"]
# Beside rows, with nothing allowed for judging and little for what is read at once.
LITTLE = 16 * 8


def features_of(count, dim, classes=4):
    """Rows around a point for each class, class after class as folders have them, and their classes."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(count) * classes) // count
    centres = torch.randn(classes, dim, generator=generator)
    return (torch.randn(count, dim, generator=generator) + centres[labels]).half(), labels


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    home = tmp_path_factory.mktemp("banks")
    features, labels = features_of(600, 8)
    asked, wanted = features_of(80, 8)
    return (
        written(home / "bank", features, labels=labels, classes=4, shard_rows=70),
        written(home / "queries", asked + 0.01, labels=wanted, classes=4, manifest="another"),
    )


@pytest.fixture
def little(monkeypatch):
    """Have small things count as large ones do."""
    monkeypatch.setattr(grid_rows, "PART_ROWS", 1)
    monkeypatch.setattr(grid_rows, "BESIDE", 0)
    monkeypatch.setattr(linear_grid, "JUDGED_VALUES", 64)


def card(**changes):
    return loading.protocol_card("linear", "cached-grid", GRID | changes)


def budget(*, row_bytes, rows=600):
    """Memory that holds so many bytes of each row, and no more."""
    beside = linear_grid.memory_of(dim=8, width=24, batch_size=16, count=600)
    return beside + LITTLE + row_bytes * rows


def run(banks, memory, **changes):
    options = {name: changes.pop(name) for name in ("kept", "bar") if name in changes}
    return linear.run(card(**changes), *banks, 0, memory=memory, **options)


@pytest.mark.parametrize("how", HOW)
def test_features_held_as_stored_train_the_same_heads_to_the_bit(banks, little, monkeypatch, how):
    forms = []
    for form in ("as_trained", "as_stored"):
        made = getattr(InMemory, form)
        monkeypatch.setattr(
            InMemory, form, lambda *given, form=form, made=made: forms.append(form) or made(*given)
        )
    whole = run(banks, budget(row_bytes=32), scaling=how)
    half = run(banks, budget(row_bytes=32) - 1, scaling=how)
    least = run(banks, budget(row_bytes=16), scaling=how)
    assert forms == ["as_trained", "as_stored", "as_stored"]
    for other in (half, least):
        assert other.scores == whole.scores
        assert other.notes == whole.notes
        assert other.head.keys() == whole.head.keys()
        assert all(torch.equal(other.head[name], whole.head[name]) for name in whole.head)


@pytest.mark.parametrize("how", HOW)
def test_rows_are_those_of_arithmetic_in_float64(banks, how):
    rows, asked = scaled.both(*banks, how=how)
    points, new = (bank.features().double().numpy() for bank in banks)
    mean, deviation = points.mean(axis=0), points.std(axis=0)
    for found, plain in ((rows, points), (asked, new)):
        wanted = {
            "plain": plain,
            "unit": plain / np.linalg.norm(plain, axis=1, keepdims=True),
            "standardised": (plain - mean) / deviation,
        }[how]
        np.testing.assert_allclose(found.slab(30, 75), wanted[30:75], rtol=1e-5, atol=1e-6)
        some = torch.tensor([71, 3, 70, 69, 3])
        np.testing.assert_allclose(found.take(some), wanted[some], rtol=1e-5, atol=1e-6)


def test_deviations_do_not_depend_on_the_parts():
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 0.01 + 300
    features[:, 1] = 7.3
    wanted = features.double().numpy()
    for part in (1, 77, 500):
        mean, scale = features_rows.standardising(features.split(part))
        np.testing.assert_allclose(mean, wanted.mean(axis=0), rtol=1e-7)
        np.testing.assert_allclose(scale[::2], wanted.std(axis=0)[::2], rtol=1e-6)
        assert scale[1] == 1


@pytest.mark.parametrize("first", [0, 1, 5, 19])
def test_an_order_by_windows_takes_every_row_once_and_mixes_blocks(banks, first):
    rows, _ = scaled.both(*banks, how="plain")
    windowed = Windowed(rows, window=128, block=8)
    taken = torch.arange(600)[torch.arange(600) % 3 > 0]
    order = windowed.order(taken, seeds.generator(0, "linear", 1))
    assert order.sort().values.tolist() == taken.tolist()
    other = windowed.order(taken, seeds.generator(0, "linear", 2))
    assert order.tolist() != other.tolist()
    place = {row: number // 8 for number, row in enumerate(taken.tolist())}
    for window in order.split(128)[:-1]:
        blocks = [place[row] for row in window.tolist()]
        # Blocks come whole, but for those that a window's end cuts, from anywhere, and their rows are not together.
        assert sum(blocks.count(block) == 8 for block in set(blocks)) >= 14
        assert max(blocks) - min(blocks) > 30
        assert sum(a == b for a, b in itertools.pairwise(blocks)) < 30
    given = torch.cat([batch.clone() for batch in windowed.batches(order, size=16, first=first)])
    assert torch.equal(given, banks[0].features().float()[order[first * 16 : 400]])


def test_windows_train_as_a_matrix_in_the_same_order(banks):
    rows, _ = scaled.both(*banks, how="standardised")
    windowed = Windowed(rows, window=160, block=8)
    matrix = InMemory(rows.slab(0, 600))
    matrix.order = windowed.order
    taken = torch.arange(0, 600, 2)
    options = {
        "learning_rates": torch.tensor([0.1, 1.0]),
        "weight_decays": torch.tensor([0.0, 0.1]),
        "num_classes": 4,
        "epochs": 2,
        "batch_size": 16,
        "momentum": 0.9,
        "seed": 0,
    }
    labels = banks[0].labels
    ours, theirs = (linear_grid.train(form, labels, taken, **options) for form in (windowed, matrix))
    assert torch.equal(ours.weights, theirs.weights)
    assert torch.equal(ours.biases, theirs.biases)
    judged = [linear_grid.judge(ours, form, labels, taken + 1) for form in (windowed, matrix)]
    assert torch.equal(judged[0].top1, judged[1].top1)
    assert torch.equal(judged[0].loss, judged[1].loss)


def test_features_larger_than_the_memory_score_as_well_and_are_told_of(banks, little, monkeypatch):
    monkeypatch.setattr(grid_rows, "BLOCK_BYTES", 64)
    whole = run(banks, budget(row_bytes=32))
    windowed = run(banks, budget(row_bytes=64, rows=128))
    (told,) = set(windowed.notes) - set(whole.notes) - {n for n in windowed.notes if "held-out" in n}
    assert "blocks of 4 consecutive images, then the images of a window of 128, not all 600" in told
    assert abs(windowed.scores[0].value - whole.scores[0].value) < 5
    with pytest.raises(
        UsageError, match=r"too little for 6 classifiers of 4 classes on 8 dimensions: give 1 MB"
    ):
        run(banks, budget(row_bytes=64, rows=16) - 1)
    assert run(banks, budget(row_bytes=64, rows=16)).scores


@pytest.mark.parametrize("row_bytes", [32, 16, 5])
@pytest.mark.parametrize("dies_after", [1, 50, 97, 99, 140, 195])
def test_a_grid_that_was_stopped_goes_on_to_the_bit(banks, little, monkeypatch, row_bytes, dies_after):
    monkeypatch.setattr(linear_grid, "SECONDS_BETWEEN_SAVES", 0.0)
    told = []

    def bar(what):
        return lambda done, _: told.append((what, done))

    memory = budget(row_bytes=row_bytes)
    whole = run(banks, memory, bar=bar)
    assert [max(d for w, d in told if w == what) for what in ("linear heads (6)", "linear heads (1)")] == [
        99,
        111,
    ]
    killed = Kept(dies_after=dies_after)
    with pytest.raises(KeyboardInterrupt):
        run(banks, memory, kept=killed)
    told.clear()
    again = run(banks, memory, kept=killed, bar=bar)
    assert again.scores == whole.scores
    assert again.notes == whole.notes
    assert all(torch.equal(again.head[name], whole.head[name]) for name in whole.head)
    first = dict(reversed(told))
    if dies_after > 99:
        # The pair was chosen: that is not done again.
        assert "linear heads (6)" not in first
        assert first["linear heads (1)"] > dies_after - 99
    elif dies_after < 99:
        assert first["linear heads (6)"] > dies_after


def test_a_grid_that_was_stopped_twice_goes_on_to_the_bit(banks, little, monkeypatch):
    monkeypatch.setattr(linear_grid, "SECONDS_BETWEEN_SAVES", 0.0)
    whole = run(banks, budget(row_bytes=32))
    killed = Kept()
    # In the grid, further on in it, in the refit, further on in that.
    for saves, steps in ((20, 20), (50, 50), (140, 41), (160, 61)):
        killed.dies_after = saves
        with pytest.raises(KeyboardInterrupt):
            run(banks, budget(row_bytes=32), kept=killed)
        assert killed.state["steps"] == steps
    again = run(banks, budget(row_bytes=32), kept=killed)
    assert again.scores == whole.scores
    assert all(torch.equal(again.head[name], whole.head[name]) for name in whole.head)


def test_logistic_regression_that_memory_cannot_hold_is_refused_at_once(banks):
    with pytest.raises(
        UsageError, match=r"on 600 images of 8 .* and 1 MB are given: take --variant cached-grid"
    ):
        linear.run(loading.protocol_card("linear", "logreg", {}), *banks, 0, memory=1000)
    outcome = linear.run(loading.protocol_card("linear", "logreg", {"number": 2}), *banks, 0, memory=10**6)
    assert outcome.scores


@on_linux
@pytest.mark.parametrize("form", ["as_stored", "windowed"])
def test_a_bank_larger_than_the_memory_is_trained_on_within_it(tmp_path, monkeypatch, form):
    for module, name, value in ((stored, "PART_VALUES", 2**18), (linear_grid, "JUDGED_VALUES", 2**18)):
        monkeypatch.setattr(module, name, value)
    for module in (grid_rows, scaled):
        monkeypatch.setattr(module, "PART_ROWS", 512)
    monkeypatch.setattr(linear, "CHUNK", 512)
    monkeypatch.setattr(grid_rows, "BESIDE", 10**7)
    features, labels = features_of(80_000, 256)
    bank = written(tmp_path / "bank", features, labels=labels, classes=4, shard_rows=4096)
    queries = written(
        tmp_path / "queries", features[::80], labels=labels[::80].contiguous(), classes=4, manifest="q"
    )
    settings = card(epochs=1, batch_size=64)
    linear.run(settings, queries, queries, 0)
    beside = linear_grid.memory_of(dim=256, width=24, batch_size=64, count=80_000) + 16 * 512 * 256 + 10**7
    memory = beside + (2 * features.numel() if form == "as_stored" else features.numel() // 2)
    with watched() as most:
        outcome = linear.run(settings, bank, queries, 0, memory=memory)
    assert any("a window of" in note for note in outcome.notes) == (form == "windowed")
    assert most[0] < memory < 4 * features.numel()


def test_the_grid_has_the_memory_of_the_settings_and_keeps_its_state(
    digit_folder, tmp_path, monkeypatch, little
):
    monkeypatch.setenv("CARP_HOME", str(tmp_path))
    monkeypatch.setattr(linear_grid, "SECONDS_BETWEEN_SAVES", 0.0)

    def found(memory):
        settings = Settings(num_workers=0, bank_home=tmp_path / "banks", memory=memory)
        model, data = open_model("random:digits"), f"folder:{digit_folder}"
        work = Job(card(), model, data, settings=settings, leaks="ignore")
        return work, RUNNERS[type(work.card)](work)

    with pytest.raises(UsageError, match="of memory are too little for 6 classifiers"):
        found(1000)
    work, outcome = found(10**9)
    assert work.unfinished().load()["steps"] == 3 * (96 // 16)
    assert outcome.scores


def test_what_was_kept_of_another_order_or_card_is_not_gone_on_with(banks, little, monkeypatch):
    monkeypatch.setattr(linear_grid, "SECONDS_BETWEEN_SAVES", 0.0)
    whole = run(banks, budget(row_bytes=32))
    for other in ({"memory": budget(row_bytes=5)}, {"memory": budget(row_bytes=32), "momentum": 0.5}):
        killed = Kept(dies_after=50)
        with pytest.raises(KeyboardInterrupt):
            run(banks, kept=killed, **other)
        again = run(banks, budget(row_bytes=32), kept=killed)
        assert again.scores == whole.scores
        assert all(torch.equal(again.head[name], whole.head[name]) for name in whole.head)
