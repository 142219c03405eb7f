import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_eval.cards import loading
from carp_eval.errors import BankError, UsageError
from carp_eval.evaluation import knn
from carp_eval.features.rows import unit_rows
from carp_eval.features.search import search_plan, streamed
from tests.features.scene import Net, Noise, take


def by_loops(bank, labels, query, *, k, num_classes, temperature):
    """Classes in order of their votes, by the definition, in float64."""
    similarities = [
        (-math.fsum(a * b for a, b in zip(query, row)), number) for number, row in enumerate(bank)
    ]
    votes = defaultdict(float)
    for negative, number in sorted(similarities)[:k]:
        votes[labels[number]] += math.exp(-negative / temperature)
    return sorted(range(num_classes), key=lambda label: (-votes[label], label))


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 50),
    num_classes=st.integers(1, 8),
    temperature=st.sampled_from([0.01, 0.07, 1.0]),
    chunk=st.sampled_from([1, 6, 100]),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_classes_are_those_of_the_definition(rows, num_classes, temperature, chunk, seed, data):
    generator = torch.Generator().manual_seed(seed)
    bank = unit_rows([torch.randn(rows, 4, generator=generator)])
    queries = unit_rows([torch.randn(9, 4, generator=generator)])
    labels = torch.randint(num_classes, (rows,), generator=generator)
    numbers = data.draw(st.sets(st.integers(1, rows), min_size=1, max_size=3))
    found = knn.classify(
        bank, labels, queries, k=numbers, num_classes=num_classes, temperature=temperature, chunk=chunk
    )
    assert set(found) == numbers
    for k, ranking in found.items():
        assert ranking.shape == (9, min(5, num_classes, k))
        for query, named in zip(queries.double().tolist(), ranking.tolist(), strict=True):
            wanted = by_loops(
                bank.double().tolist(),
                labels.tolist(),
                query,
                k=k,
                num_classes=num_classes,
                temperature=temperature,
            )
            assert named == wanted[: len(named)]


def test_a_vote_by_hand():
    similarities = torch.tensor([[0.9, 0.8, 0.8]], dtype=torch.float64)
    votes = knn.vote(similarities, torch.tensor([[1, 0, 0]]), num_classes=3, temperature=0.1)
    near, far = math.exp(9), math.exp(8)
    assert votes[0].tolist() == pytest.approx([2 * far / (near + 2 * far), near / (near + 2 * far), 0])
    softer = knn.vote(similarities, torch.tensor([[1, 0, 0]]), num_classes=3, temperature=0.2)
    assert (votes.argmax(), softer.argmax()) == (1, 0)


def test_votes_of_features_of_any_length_do_not_overflow():
    votes = knn.vote(torch.tensor([[9000.0, 100.0]]), torch.tensor([[0, 1]]), num_classes=2)
    assert votes.tolist() == [[1, 0]]


@pytest.mark.parametrize("temperature", [0.0, -0.07])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(UsageError, match="positive"):
        knn.vote(
            torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64), num_classes=1, temperature=temperature
        )


def test_of_equal_votes_the_lower_class_is_named():
    bank = torch.eye(4)
    found = knn.classify(bank, torch.tensor([3, 1, 2, 1]), torch.ones(1, 4) / 2, k=[1, 3, 4], num_classes=4)
    assert found[1].tolist() == [[3]]
    assert found[3].tolist() == [[1, 2, 3]]
    assert found[4].tolist() == [[1, 2, 3, 0]]


def test_rows_without_a_label_have_no_vote():
    with pytest.raises(UsageError, match="1 of 4 rows of the bank have no label"):
        knn.classify(torch.eye(4), torch.tensor([0, 0, -1, 0]), torch.eye(4), k=[1], num_classes=1)


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    home = tmp_path_factory.mktemp("banks")
    return take(home, images=Noise(60, seed=1)), take(home, images=Noise(30, seed=2))


def card(**changes):
    return loading.protocol_card("knn", "dino", changes)


def test_a_run_scores_what_its_predictions_say(banks):
    bank, queries = banks
    outcome = knn.run(card(k=[1, 7, 20]), bank, queries, 0)
    labels = queries.labels.numpy()
    scores = {(score.metric, score.settings["k"]): score for score in outcome.scores}
    assert len(scores) == 9
    units = [
        features.double() / features.double().norm(dim=1, keepdim=True)
        for features in (b.features() for b in banks)
    ]
    for k in (1, 7, 20):
        predicted = outcome.predictions[f"predicted_k{k}"]
        for number, query in enumerate(units[1].tolist()):
            wanted = by_loops(
                units[0].tolist(), bank.labels.tolist(), query, k=k, num_classes=3, temperature=0.07
            )
            assert predicted[number] == wanted[0]
        top1 = scores["top1", k]
        assert top1.value == pytest.approx((predicted == labels).mean() * 100)
        assert top1.low < top1.value < top1.high
        means = [(predicted == labels)[labels == label].mean() for label in range(3)]
        assert scores["mean_per_class", k].value == pytest.approx(np.mean(means) * 100)
    assert scores["top5", 7].value == 100
    assert scores["top5", 1].value == scores["top1", 1].value
    assert any("top-5 says nothing with 3 classes" in note for note in outcome.notes)
    assert any("below k = 5" in note for note in outcome.notes)


def test_a_bank_that_queries_itself_leaves_each_image_out(banks):
    bank, _ = banks
    outcome = knn.run(card(k=[1]), bank, bank, 0)
    unit = bank.features().double() / bank.features().double().norm(dim=1, keepdim=True)
    similarities = (unit @ unit.T).fill_diagonal_(-2)
    assert outcome.predictions["predicted_k1"].tolist() == bank.labels[similarities.argmax(dim=1)].tolist()
    assert any("no image voted for itself" in note for note in outcome.notes)


def test_features_that_are_not_normalised_are_compared_by_inner_product(banks):
    bank, queries = banks
    outcome = knn.run(card(k=[1], normalise=False), bank, queries, 0)
    nearest = (queries.features().double() @ bank.features().double().T).argmax(dim=1)
    assert outcome.predictions["predicted_k1"].tolist() == bank.labels[nearest].tolist()
    other = knn.run(card(k=[1]), bank, queries, 0).predictions["predicted_k1"]
    assert other.tolist() != outcome.predictions["predicted_k1"].tolist()


def test_more_neighbours_than_rows_are_refused(banks):
    with pytest.raises(UsageError, match=r"k is 61.*60 rows"):
        knn.run(card(k=[10, 61]), *banks, 0)


def test_a_bank_of_another_model_is_refused(banks, tmp_path):
    network = Net().eval()
    with torch.no_grad():
        network.layers[0].bias += 1
    with pytest.raises(BankError, match="weights_sha256"):
        knn.run(card(k=[1]), banks[0], take(tmp_path, network=network), 0)


def test_one_class_and_one_query_are_right(tmp_path):
    bank, query = Noise(5, seed=1), Noise(1, seed=2)
    bank.labels[:] = query.labels[:] = 0
    bank.class_names = query.class_names = ("only",)
    outcome = knn.run(card(k=[3]), take(tmp_path, images=bank), take(tmp_path, images=query), 0)
    assert [(score.metric, score.value) for score in outcome.scores] == [
        ("top1", 100),
        ("top5", 100),
        ("mean_per_class", 100),
    ]


def test_queries_without_labels_are_refused(banks, tmp_path):
    images = Noise(30, seed=2)
    images.labels[3] = -1
    with pytest.raises(UsageError, match="1 of 30 images have no label"):
        knn.run(card(k=[1]), banks[0], take(tmp_path, images=images), 0)


def test_a_surface_is_what_each_pair_gives_alone(banks):
    bank, queries = banks
    outcome = knn.run(card(k=[3, 20], temperatures=[0.002, 0.05, 3.0]), bank, queries, 0)
    top1 = {
        (score.settings["k"], score.settings["temperature"]): score.value
        for score in outcome.scores
        if score.metric == "top1"
    }
    assert set(top1) == {(k, t) for k in (3, 20) for t in (0.002, 0.05, 3.0)}
    rows, asked = (unit_rows(b.shards()).double().tolist() for b in banks)
    for (k, temperature), value in top1.items():
        named = [
            by_loops(rows, bank.labels.tolist(), query, k=k, num_classes=3, temperature=temperature)[0]
            for query in asked
        ]
        assert outcome.predictions[f"predicted_k{k}_t{temperature:g}"].tolist() == named
        assert value == pytest.approx(np.mean(np.array(named) == queries.labels.numpy()) * 100)
    predicted = {name: column.tolist() for name, column in outcome.predictions.items()}
    assert predicted["predicted_k20_t0.002"] != predicted["predicted_k20_t3"]
    assert any("the best of 6 pairs" in note for note in outcome.notes)


def test_one_temperature_is_not_in_the_settings(banks):
    outcome = knn.run(card(k=[3], temperatures=[0.5]), *banks, 0)
    alone = knn.run(card(k=[3], temperature=0.5), *banks, 0)
    assert [score.settings for score in outcome.scores] == [{"k": 3}] * 3
    assert [score.value for score in outcome.scores] == [score.value for score in alone.scores]


def test_images_of_one_class_are_told_to_say_nothing(tmp_path):
    said = "there is one class: every answer is right"
    for names, expected in ((("a",), True), (("a", "b", "c"), False)):
        images = [Noise(20, seed=seed) for seed in (1, 2)]
        for some in images:
            some.class_names = names
            some.labels %= len(names)
        banks = [take(tmp_path / str(len(names)), images=some) for some in images]
        outcome = knn.run(loading.protocol_card("knn", "dino", {"k": [3]}), *banks, 0)
        assert any(said in note for note in outcome.notes) == expected


def test_a_search_in_bf16_is_told_of_with_how_many_neighbours_it_found(banks):
    exact, rough = (knn.run(card(k=[20], search=search), *banks, 0) for search in ("exact", "bf16"))
    (note,) = (note for note in rough.notes if "bf16" in note)
    assert "100.000% of those of 30 queries are those of an exact search" in note
    assert rough.predictions["predicted_k20"].tolist() == exact.predictions["predicted_k20"].tolist()
    assert not any("bf16" in note for note in exact.notes)


def test_memory_moves_no_score_and_where_it_is_too_little_that_is_told(banks, monkeypatch):
    bank, queries = banks
    plenty = knn.run(card(k=[1, 20]), bank, queries, 0)
    monkeypatch.setattr(streamed, "fits", lambda *_: False)
    monkeypatch.setattr(search_plan, "MOST_SLAB_ROWS", 7)
    little = knn.run(card(k=[1, 20]), bank, queries, 0)
    assert little.scores == plenty.scores
    assert {name: column.tolist() for name, column in little.predictions.items()} == {
        name: column.tolist() for name, column in plenty.predictions.items()
    }
    with pytest.raises(UsageError, match=r"0\.0 MB of memory are too little .*--memory"):
        knn.run(card(k=[1]), bank, queries, 0, memory=1000)


def test_a_card_that_searches_exactly_is_what_it_was_before_there_was_a_choice():
    told = card().model_dump(mode="json")
    assert "search" not in told
    assert type(card()).model_validate(told) == card()
    other = card(search="bf16")
    assert other.model_dump(mode="json") == told | {"search": "bf16"}
    assert type(other).model_validate_json(other.model_dump_json()) == other
    assert loading.fingerprint(other) != loading.fingerprint(card())
