import pytest
import torch

from carp_eval.checkpoints.export.writing import export
from tests.checkpoints.export import scene

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["trunk.safetensors", "trunk.pth"])
def test_timm_loads_it_by_its_path(tmp_path, name):
    model = scene.model()
    written = export(model, "timm", tmp_path / name)
    network = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / name)).eval()
    with torch.inference_mode():
        assert scene.relative(network(scene.images()), scene.features(model, scene.images())) < 1e-5
    told = f"timm.create_model('resnet18', num_classes=0, checkpoint_path='{tmp_path / name}')"
    assert written.loading == f"network = {told}"


def test_a_trunk_that_came_from_timm_goes_back(tmp_path):
    network = scene.shaken(timm.create_model("resnet18", num_classes=0))
    assert export(scene.of(network), "timm", tmp_path / "trunk.safetensors").relative_difference == 0
