import json

import pytest
import torch

from carp_eval.checkpoints.export.writing import export
from carp_eval.checkpoints.opening import open_model
from tests.checkpoints.export import scene


def test_a_program_takes_any_batch_and_gives_the_features(tmp_path):
    model = scene.model()
    export(model, "torch-export", tmp_path / "trunk.pt2")
    told = {"carp.json": ""}
    network = torch.export.load(tmp_path / "trunk.pt2", extra_files=told).module()
    for count in (1, 2, 5):
        images = scene.images(count)
        with torch.inference_mode():
            assert scene.relative(network(images), scene.features(model, images)) < 1e-5
    assert json.loads(told["carp.json"])["weights_sha256"] == model.weights_sha256


def test_a_batch_and_a_size_can_be_fixed_and_halves_are_computed_in(tmp_path):
    model = scene.tiny()
    written = export(model, "torch-export", tmp_path / "tiny.pt2", batch=4, image_size=48, dtype="float16")
    assert written.compared_on == "4 x 3 x 48 x 48"
    network = torch.export.load(tmp_path / "tiny.pt2").module()
    images = scene.images(4, size=48)
    found = network(images.half())
    assert found.dtype == torch.float16
    assert scene.relative(found.float(), scene.features(model, images)) < 1e-2
    with pytest.raises(AssertionError):
        network(images[:3].half())


def test_a_trunk_of_our_own_is_traced_too(tmp_path):
    model = open_model("random:digits")
    export(model, "torch-export", tmp_path / "digits.pt2")
    images = scene.images(7, size=28, channels=1)
    network = torch.export.load(tmp_path / "digits.pt2").module()
    with torch.inference_mode():
        assert scene.relative(network(images), scene.features(model, images)) < 1e-5
