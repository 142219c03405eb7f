import pytest
import torch
from torch import nn

from carp_eval import files
from carp_eval.checkpoints.export import writing
from carp_eval.checkpoints.export.writing import export
from carp_eval.errors import CheckpointError, UsageError
from tests.checkpoints.export import scene


class Bent(nn.Module):
    """What cannot be traced: what it does depends on what it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, images):
        means = images.mean(dim=(2, 3)) * self.weight
        return means if means.sum().item() > 0 else -means


def small_stem():
    import torchvision

    network = torchvision.models.resnet18()
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    network.fc = nn.Identity()
    return scene.of(scene.shaken(network), name="cifar")


@pytest.mark.parametrize("target", ["torchvision", "timm", "detectron2"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (scene.tiny, "tiny is a Tiny of 9 entries"),
        (small_stem, "whose stem takes 3 channels by 3 x 3"),
        (lambda: scene.of(nn.Sequential(scene.model().network)), "a Sequential of 120 entries"),
    ],
)
def test_what_is_no_usual_resnet_is_refused_with_what_it_is(tmp_path, target, make, said):
    with pytest.raises(
        UsageError, match=rf"{target} takes ResNets by torchvision's names.*{said}.*take any model"
    ):
        export(make(), target, tmp_path / "trunk.pth")
    assert not list(tmp_path.iterdir())


def test_a_network_of_the_same_entries_that_works_otherwise_is_not_written(tmp_path):
    model = scene.model()
    model.network.layer2[0].conv1.stride, model.network.layer2[0].conv2.stride = (1, 1), (2, 2)
    for target in ("torchvision", "timm", "detectron2"):
        with pytest.raises(CheckpointError, match="gives other features than resnet18: off by"):
            export(model, target, tmp_path / "trunk.pth")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_traced_is_told(tmp_path):
    with pytest.raises(
        CheckpointError, match="tiny cannot be brought to torch-export with images of 32 x 32"
    ):
        export(scene.of(Bent()), "torch-export", tmp_path / "bent.pt2")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays_unless_forced_and_whenever_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "trunk.pth"
    model = scene.model()
    first = export(model, "torchvision", path)
    assert first.sha256 == files.sha256(path)
    assert first.bytes == path.stat().st_size
    with pytest.raises(UsageError, match=r"is there already.*--force"):
        export(model, "torchvision", path)
    other = scene.shaken(scene.model().network, seed=1)
    monkeypatch.setitem(writing.TOLERANCE, "float32", -1.0)
    with pytest.raises(CheckpointError, match="was not written"):
        export(scene.of(other), "torchvision", path, force=True)
    assert files.sha256(path) == first.sha256
    monkeypatch.undo()
    assert (
        export(scene.of(other), "torchvision", path, force=True).sha256 == files.sha256(path) != first.sha256
    )
    assert [one.name for one in path.parent.iterdir()] == ["trunk.pth"]


def test_a_model_stays_as_it_was(tmp_path):
    model = scene.tiny()
    before = scene.features(model, scene.images())
    told = []
    export(
        model, "torch-export", tmp_path / "a.pt2", dtype="float16", progress=lambda *steps: told.append(steps)
    )
    assert (scene.features(model, scene.images()) == before).all()
    assert told == [(0, 2), (1, 2), (2, 2)]
