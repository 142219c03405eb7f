"""The prototypes of trainings of each kind, opened as their methods compare them."""

import pytest
import torch

from carp_eval.cards import loading, shelf
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.prototypes import open_prototypes
from carp_eval.errors import CarpError, UsageError
from carp_eval.models import network
from tests.recipes import tiny


@pytest.fixture
def run(tmp_path):
    """Make the run of a recipe with fresh weights: prototypes are opened, not judged."""

    def make(recipe, *, teacher=True, name="run"):
        student = network.build(recipe, seed=1)
        other = network.build(recipe, seed=2)
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        training.save(
            tmp_path / name / runs.LAST,
            training.TrainingCheckpoint(
                recipe=recipe,
                step=1,
                world_size=1,
                student=student.state_dict(),
                teacher=other.state_dict() if teacher else {},
                optimiser={},
            ),
        )
        return tmp_path / name, student, other

    return make


def recipe_of(method, **changes):
    """Return the digits recipe, cut down, as one of another method."""
    content = loading.read(shelf.folder(shelf.RECIPES) / "digits.toml", shelf.RECIPES)
    for table in ("partition", "loss", "teacher"):
        content.pop(table, None)
    content |= {"method": method, "prototypes": {"count": 6}} | changes
    content = {key: value for key, value in content.items() if value is not None}
    content["head"] |= {"hidden_dim": 16, "output_dim": 8}
    return loading.as_recipe(content, where="here")


def test_carp_compares_unit_prototypes_with_free_embeddings_of_the_teacher(run):
    folder, student, teacher = run(tiny())
    opened = open_prototypes(str(folder))
    rows = teacher.prototypes.weight.detach()
    assert torch.equal(opened.rows, rows / rows.norm(dim=1, keepdim=True))
    assert (opened.unit_embeddings, opened.temperature, opened.sets, len(opened)) == (False, 1.0, 1, 32)
    assert (opened.model.layer, opened.model.branch, opened.model.feature_dim) == ("projection", "teacher", 8)
    of_student = open_prototypes(str(folder / runs.LAST), branch="student").rows
    rows = student.prototypes.weight.detach()
    assert torch.equal(of_student, rows / rows.norm(dim=1, keepdim=True))


def test_a_run_without_a_teacher_gives_its_student(run):
    folder, student, _ = run(tiny(prototypes__unit_norm="false"), teacher=False)
    opened = open_prototypes(str(folder))
    assert opened.model.branch == "student"
    assert torch.equal(opened.rows, student.prototypes.weight.detach())


def test_carl_scales_nothing(run):
    recipe = recipe_of("carl", loss={"kl_weight": 4.0, "final_kl_weight": 1.5, "decay_epochs": 10.0})
    folder, student, _ = run(recipe, teacher=False)
    opened = open_prototypes(str(folder))
    assert torch.equal(opened.rows, student.prototypes.weight.detach())
    assert (opened.unit_embeddings, opened.temperature) == (False, 1.0)


def test_swav_scales_both_and_divides_by_its_temperature(run):
    folder, _, _ = run(recipe_of("swav", temperature=0.25), teacher=False)
    opened = open_prototypes(str(folder))
    assert opened.rows.norm(dim=1).tolist() == pytest.approx([1.0] * 6)
    assert (opened.unit_embeddings, opened.temperature) == (True, 0.25)


def test_each_of_several_sets_can_be_opened(run):
    folder, student, _ = run(recipe_of("deepcluster-v2", prototypes={"count": 6, "sets": 3}), teacher=False)
    rows = torch.nn.functional.normalize(student.prototypes.weight.detach())
    assert open_prototypes(str(folder)).rows.shape == (6, 8)
    assert torch.equal(open_prototypes(str(folder), number=2).rows, rows[12:])
    with pytest.raises(UsageError, match="3 sets of prototypes, numbered from 0; there is no set 3"):
        open_prototypes(str(folder), number=3)


def test_a_model_without_prototypes_is_refused_by_name():
    with pytest.raises(UsageError, match="random:digits has no prototypes"):
        open_prototypes("random:digits")


def test_a_training_without_prototypes_is_refused_by_its_method(run):
    recipe = recipe_of("simclr", prototypes=None, loss={"temperature": 0.1})
    folder, _, _ = run(recipe, teacher=False)
    with pytest.raises(UsageError, match="trained by simclr, which has no prototypes"):
        open_prototypes(str(folder))


def test_what_is_no_model_at_all_says_so_as_everywhere(tmp_path):
    with pytest.raises(CarpError, match="there is no model"):
        open_prototypes("nothing-of-this-name")
