import pytest
import safetensors.torch
import torch
from torchvision.models import resnet18

from carp_eval.checkpoints import opening
from carp_eval.errors import CheckpointError, UsageError
from carp_eval.models.model import weights_sha256
from tests.checkpoints import pretend


@pytest.fixture(scope="module")
def theirs():
    return pretend.trained(resnet18(weights=None))


def under(prefix, network):
    return {f"{prefix}{name}": value for name, value in pretend.without_fc(network).items()}


def test_a_flat_file_is_opened_whatever_it_is_called(theirs, tmp_path):
    state = theirs.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"state_dict": under("module.", theirs)}, tmp_path / "wrapped.pth.tar")
    safetensors.torch.save_file(dict(state), tmp_path / "safe.safetensors")
    expected = pretend.pooled(theirs, pretend.images())
    for file in ("plain.pth", "wrapped.pth.tar", "safe.safetensors"):
        model = opening.open_model(str(tmp_path / file))
        assert torch.equal(pretend.features(model.network, pretend.images()), expected)
        assert model.weights_sha256 == weights_sha256(pretend.without_fc(theirs))
        assert (model.name, model.branch, model.dataset) == (str(tmp_path / file), "", None)
        assert (model.input.native_size, model.input.mean) == (224, (0.485, 0.456, 0.406))
        assert any("recognised" in note and "resnet18" in note for note in model.notes)
        assert any("ImageNet's mean" in note for note in model.notes)


def test_of_a_teacher_and_a_student_the_teacher_is_judged_if_none_is_named(tmp_path):
    student, teacher = (pretend.trained(resnet18(weights=None), seed=seed) for seed in (1, 2))
    content = {
        "student": under("module.backbone.", student),
        "teacher": under("module.backbone.", teacher),
        "epoch": 9,
    }
    torch.save(content, tmp_path / "both.pth")
    for branch, network in (("teacher", teacher), ("student", student)):
        model = opening.open_model(str(tmp_path / "both.pth"), branch=branch)
        assert model.branch == branch
        expected = pretend.pooled(network, pretend.images())
        assert torch.equal(pretend.features(model.network, pretend.images()), expected)
    named = opening.open_model(str(tmp_path / "both.pth"))
    assert named.branch == "teacher"


def test_what_a_file_does_not_hold_is_refused(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "one.pth")
    with pytest.raises(
        UsageError, match=r"one\.pth holds one network, no teacher and student: leave --branch out"
    ):
        opening.open_model(str(tmp_path / "one.pth"), branch="student")
    with pytest.raises(UsageError, match=r"one\.pth has no layer 'projection'"):
        opening.open_model(str(tmp_path / "one.pth"), layer="projection")
    state = theirs.state_dict()
    del state["layer3.0.bn2.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"missing: layer3\.0\.bn2\.weight"):
        opening.open_model(str(tmp_path / "less.pth"))
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "fresh.pth")
    with pytest.raises(CheckpointError, match="was never trained"):
        opening.open_model(str(tmp_path / "fresh.pth"))
