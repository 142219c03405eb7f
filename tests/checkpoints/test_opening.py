import pytest
import torch
from torchvision.models import resnet18

from carp_eval.checkpoints import opening, runs, training
from carp_eval.errors import CheckpointError, UnknownNameError, UsageError
from carp_eval.models import network
from carp_eval.models.model import weights_sha256
from tests.checkpoints import pretend
from tests.recipes import tiny


def checkpoint(recipe, *, teacher=True):
    student, slow = network.build(recipe, seed=1), network.build(recipe, seed=2)
    return training.TrainingCheckpoint(
        recipe=recipe,
        step=5,
        world_size=1,
        student=student.state_dict(),
        teacher=slow.state_dict() if teacher else {},
        optimiser={},
    )


@pytest.fixture
def run(tmp_path):
    training.save(tmp_path / "a-run" / runs.LAST, checkpoint(tiny()))
    return tmp_path / "a-run"


@torch.inference_mode()
def features(model):
    images = torch.linspace(-1, 1, 2 * 28 * 28).view(2, 1, 28, 28)
    return model.network(images)


@pytest.mark.parametrize(("branch", "seed"), [("student", 1), ("teacher", 2)])
def test_a_run_gives_the_features_of_the_branch_that_was_asked_for(run, branch, seed):
    model = opening.open_model(str(run), branch=branch)
    expected = network.build(tiny(), seed=seed).eval().trunk
    assert torch.equal(features(model), expected(torch.linspace(-1, 1, 2 * 28 * 28).view(2, 1, 28, 28)))
    assert (model.name, model.branch, model.dataset, model.folder) == ("a-run", branch, "digits", run)
    assert model.weights_sha256 == weights_sha256(expected.state_dict())


def test_the_projection_is_another_layer_with_its_own_width(run):
    model = opening.open_model(str(run / runs.LAST), layer="projection")
    assert features(model).shape == (2, model.feature_dim) == (2, 8)


def test_without_a_teacher_the_student_is_opened(tmp_path):
    training.save(tmp_path / "run" / runs.LAST, checkpoint(tiny(teacher__kind="none"), teacher=False))
    assert opening.open_model(str(tmp_path / "run")).branch == "student"


def test_random_and_pixels_are_the_baselines_of_a_recipe(run):
    random = opening.open_model(f"random:{run}")
    assert torch.equal(
        features(random),
        network.build(tiny(), seed=0).eval().trunk(torch.linspace(-1, 1, 2 * 28 * 28).view(2, 1, 28, 28)),
    )
    pixels = opening.open_model("pixels:digits")
    assert features(pixels).shape == (2, pixels.feature_dim) == (2, 784)


def test_no_model_named_means_the_run_trained_last(run, monkeypatch):
    (run.parent / "runs").mkdir()
    run.rename(run.parent / "runs" / "a-run")
    monkeypatch.chdir(run.parent)
    assert opening.open_model().name == "a-run"


def test_random_takes_an_architecture_of_the_zoo_too():
    model = opening.open_model("random:resnet18")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = resnet18(weights=None).eval()
    images = pretend.images()
    assert torch.equal(pretend.features(model.network, images), pretend.pooled(theirs, images))
    assert (model.feature_dim, model.input.native_size, model.dataset) == (512, 224, None)
    with pytest.raises(UsageError, match="no layer 'projection'"):
        opening.open_model("random:resnet18", layer="projection")


@pytest.mark.parametrize("spelling", ["random:digits", "random:resnet18", "pixels:digits"])
def test_of_one_network_there_is_no_student(spelling):
    with pytest.raises(UsageError, match="leave --branch out"):
        opening.open_model(spelling, branch="student")


def test_a_folder_of_the_hub_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"hf:{tmp_path}"):
        opening.open_model(str(tmp_path))


def test_what_leads_nowhere_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean carp-resnet50-400ep"):
        opening.open_model("carp-resnet50-400p")
    with pytest.raises(
        UnknownNameError, match=r"no kind of model named 'torchvison:'. Did you mean torchvision:"
    ):
        opening.open_model("torchvison:resnet50")
    with pytest.raises(UsageError, match="train one with `carp train`"):
        opening.open_model()
    with pytest.raises(UsageError, match="there is no model 'nowhere'"):
        opening.open_model("nowhere")
    with pytest.raises(UnknownNameError, match="Did you mean digits"):
        opening.open_model("random:digit")
    with pytest.raises(UnknownNameError, match=r"no kind of model named 'randm:'. Did you mean random:"):
        opening.open_model("randm:digits")
    with pytest.raises(UnknownNameError, match="no recipe named ''"):
        opening.open_model("random:")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is no trained run"):
        opening.open_model("empty")


def test_weights_that_do_not_fit_their_recipe_are_refused(tmp_path):
    wrong = checkpoint(tiny())
    wider = network.build(tiny(head__output_dim="12"), seed=0).state_dict()
    broken = training.TrainingCheckpoint(wrong.recipe, 5, 1, wider, wider, {})
    training.save(tmp_path / "x.pt", broken)
    with pytest.raises(CheckpointError, match=r"prototypes.weight \(32, 12\) instead of \(32, 8\)"):
        opening.open_model(str(tmp_path / "x.pt"))


def test_a_file_that_is_no_training_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no ResNet's trunk was recognised"):
        opening.open_model(str(tmp_path / "other.pt"))
    torch.save({"format": training.FORMAT, "version": 99}, tmp_path / "newer.pt")
    with pytest.raises(CheckpointError, match="version 99"):
        opening.open_model(str(tmp_path / "newer.pt"))
    torch.save({"format": training.FORMAT, "version": 1}, tmp_path / "cut.pt")
    with pytest.raises(CheckpointError, match="damaged: its part 'recipe'"):
        opening.open_model(str(tmp_path / "cut.pt"))
