"""A contract over every recipe, and what one that extends another is."""

import re

import pytest
import torch

from carp_eval.cards import loading, methods
from carp_eval.errors import CardError, UnknownNameError
from carp_eval.pretrain import methods as trained

NAMES = loading.names(loading.RECIPES)
CARDS = {name: loading.recipe(name) for name in NAMES}


# What a recipe has that its networks do not depend on.
ELSEWHERE = {"summary", "source", "series", "expect", "data", "views", "optimiser", "schedule", "compute"}
BUILT = {str(card.model_dump(exclude=ELSEWHERE)): name for name, card in CARDS.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_whole(name):
    card = CARDS[name]
    assert type(card) is methods.TYPES[card.method]
    assert card.summary
    assert card.source
    # What a resumed run reads back is the recipe that was written.
    assert loading.as_recipe(card.model_dump(mode="json"), where="") == card


@pytest.mark.parametrize("name", BUILT.values())
def test_a_recipe_builds_its_method(name):
    card = CARDS[name]
    with torch.device("meta"):
        method = trained.build(card, device=torch.device("meta"))
    assert method.student.head[-1 - card.head.output_norm].out_features == card.head.output_dim


@pytest.mark.parametrize("name", [name for name in NAMES if re.search(r"-\d+ep", name)])
def test_a_recipes_name_says_what_it_is(name):
    card = CARDS[name]
    method, architecture, epochs, rest = re.fullmatch(
        r"(.+?)-(resnet\d+(?:w\d)?)-(\d+)ep(?:-(.*))?", name
    ).groups()
    assert (card.method, card.trunk.architecture, card.schedule.epochs) == (
        method,
        architecture,
        int(epochs),
    )
    words = (rest or "").split("-")
    (data,) = [word for word in words if word in ("cifar10", "cifar100", "stl10", "imagenet64")] or [
        "imagenet"
    ]
    assert card.data.name == data
    small = min(view.size for view in card.views) < max(view.size for view in card.views)
    assert small is ("mc" in words)
    assert ("160px" in words) is (max(view.size for view in card.views) == 160)
    for word in words:
        if re.fullmatch(r"bs\d+", word):
            assert card.schedule.batch_size == int(word.removeprefix("bs"))


def test_a_released_model_is_what_its_recipe_makes():
    told = 0
    for name in loading.names(loading.ZOO):
        model = loading.checkpoint_card(name)
        if model.recipe:
            told += 1
            recipe = CARDS[model.recipe]
            assert (recipe.trunk.architecture, recipe.schedule.epochs) == (model.architecture, model.epochs)
            assert recipe.data.name == model.dataset
            assert recipe.data.std == model.input.std
    assert told >= 8


def test_what_a_dry_run_shows_of_an_ablation_is_whole_and_has_a_hash_of_its_own():
    base, row = CARDS["carp-resnet50-50ep"], CARDS["carp-resnet50-50ep-nb32"]
    differs = {key for key, value in row.model_dump().items() if value != base.model_dump()[key]}
    assert differs == {"partition", "summary", "source", "series", "expect"}
    hashes = {loading.fingerprint(CARDS[name]) for name in NAMES}
    assert len(hashes) == len(NAMES)


def test_a_recipe_of_a_users_own_extends_one_beside_it_or_one_of_ours(tmp_path):
    (tmp_path / "carp-resnet50-50ep.toml").write_text(
        'extends = "carp-resnet50-200ep"\n[schedule]\nepochs = 7\n'
    )
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "carp-resnet50-50ep"\n[partition]\nblock_size = 64\n')
    card = loading.recipe(str(mine))
    assert (card.schedule.epochs, card.schedule.batch_size, card.partition.block_size) == (7, 1024, 64)
    mine.write_text('extends = "carp-resnet50-50ep-nb32"\n[schedule]\nepochs = 3\n')
    card = loading.recipe(str(mine))
    assert (card.schedule.epochs, card.schedule.batch_size, card.partition.block_size) == (3, 256, 32)
    assert loading.recipe(str(mine), {"partition.block_size": "16"}).partition.block_size == 16


def test_a_recipe_that_extends_nothing_known_or_itself_is_refused(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "carp-resnet50-50epp"\n')
    with pytest.raises(UnknownNameError, match=r"Did you mean .*carp-resnet50-50ep"):
        loading.recipe(str(mine))
    (tmp_path / "other.toml").write_text('extends = "mine"\n')
    mine.write_text('extends = "other"\n')
    with pytest.raises(CardError, match="extends itself"):
        loading.recipe(str(mine))


GLOBAL = "{ size = 28, count = 2, jitter = [0.4, 0.4, 0.0, 0.0], grey = 0.0 }"
LOCAL = "{ size = 16, to_teacher = false, jitter = [0.4, 0.4, 0.0, 0.0], grey = 0.0 }"


def test_the_teachers_views_come_first():
    # The loss pairs a teacher's view with the student's of the same number.
    assert len(loading.recipe("digits", {"views": f"[{GLOBAL}, {LOCAL}]"}).views) == 2
    with pytest.raises(CardError, match="come before those that it does not"):
        loading.recipe("digits", {"views": f"[{LOCAL}, {GLOBAL}]"})
