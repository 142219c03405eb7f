import numpy as np
import pytest

from carp_eval.cards import loading
from carp_eval.data import digits, subset
from carp_eval.errors import DataError
from carp_eval.models import network
from carp_eval.pretrain import methods, start


class Silent:
    def step(self, **_):
        pass

    def say(self, _):
        pass


def test_some_images_are_those_of_the_split_each_once_and_the_same_again():
    whole = digits.open_split("train")
    part, again = subset.some(whole, 100), subset.some(whole, 100)
    where = {whole.key(number): number for number in range(len(whole))}
    numbers = [where[part.key(number)] for number in range(len(part))]
    assert len(set(numbers)) == len(part) == 100
    assert numbers == [where[again.key(number)] for number in range(100)]
    assert numbers == sorted(numbers)
    assert numbers != list(range(100))
    assert part.labels.tolist() == whole.labels[numbers].tolist()
    assert np.array_equal(np.asarray(part.image(7)), np.asarray(whole.image(numbers[7])))
    assert part.partial == f"100 of {len(whole):,} train images"
    assert not subset.some(whole, len(whole)).partial


def test_a_larger_draw_holds_a_smaller_one():
    whole = digits.open_split("train")
    small, large = (
        {part.key(number) for number in range(len(part))}
        for part in (subset.some(whole, 50), subset.some(whole, 200))
    )
    assert small < large


def test_more_images_than_there_are_is_refused():
    with pytest.raises(DataError, match=r"has 1,?800 images and 2000 were asked for"):
        subset.some(digits.open_split("test"), 2000)


def test_a_recipe_trains_on_as_many_images_as_it_says(tmp_path):
    changes = {"data.num_images": "96", "seed": "3"}
    plan = start.plan("digits", changes=changes, runs_root=tmp_path, display=Silent(), device="cpu")
    assert len(plan.images) == 96
    other = start.plan(
        "digits", changes=changes | {"seed": "4"}, runs_root=tmp_path, display=Silent(), device="cpu"
    )
    assert other.images.manifest_sha256 == plan.images.manifest_sha256


@pytest.mark.parametrize("family", ["digits-", "cifar10-5k-"])
def test_recipes_to_compare_methods_differ_by_method_alone(family):
    names = [name for name in loading.names(loading.RECIPES) if name.startswith(family)]
    cards = [loading.recipe(name) for name in names]
    assert {card.method for card in cards} | {"carp"} == set(methods.METHODS)
    first = cards[0]
    for card in cards:
        assert (card.data, card.trunk, card.seed) == (first.data, first.trunk, first.seed)
        built = network.build(card, seed=card.seed).trunk.state_dict()
        start_of_all = network.build(first, seed=first.seed).trunk.state_dict()
        assert all(built[name].equal(start_of_all[name]) for name in start_of_all)
