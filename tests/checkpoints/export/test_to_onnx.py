import pytest
import torch

from carp_eval.checkpoints.export import to_onnx
from carp_eval.checkpoints.export.writing import export
from carp_eval.errors import CheckpointError, UsageError
from tests.checkpoints.export import scene

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])


def test_onnxruntime_gives_the_features_of_any_batch(tmp_path):
    model = scene.model()
    written = export(model, "onnx", tmp_path / "trunk.onnx")
    for count in (1, 5):
        images = scene.images(count)
        assert scene.relative(run(tmp_path / "trunk.onnx", images), scene.features(model, images)) < 1e-5
    graph = onnx.load(tmp_path / "trunk.onnx")
    onnx.checker.check_model(graph, full_check=True)
    told = {entry.key: entry.value for entry in graph.metadata_props}
    assert told["weights_sha256"] == model.weights_sha256
    assert (told["mean"], told["std"], told["size"]) == ("0.485 0.456 0.406", "0.228 0.224 0.225", "32")
    assert written.told["input"] == "images: float32, batch x 3 x 32 x 32"
    assert written.told["output"] == "features: float32, batch x 512"
    # Whole: nothing lies beside it.
    assert [path.name for path in tmp_path.iterdir()] == ["trunk.onnx"]


def test_opset_batch_and_size_are_what_was_asked_for(tmp_path):
    opset = 20
    written = export(scene.tiny(), "onnx", tmp_path / "tiny.onnx", opset=opset, batch=2, image_size=40)
    graph = onnx.load(tmp_path / "tiny.onnx")
    assert (
        [entry.version for entry in graph.opset_import if not entry.domain]
        == [opset]
        == [written.told["opset"]]
    )
    dims = [dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [2, 3, 40, 40]


@pytest.mark.parametrize("opset", [1, 17, 99])
def test_an_opset_that_torch_does_not_write_is_refused(tmp_path, opset):
    with pytest.raises(UsageError, match=rf"torch writes opsets 18 to \d+, not {opset}"):
        export(scene.tiny(), "onnx", tmp_path / "tiny.onnx", opset=opset)


def test_what_onnxruntime_refuses_is_told_and_not_kept(tmp_path, monkeypatch):
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    def refuse(*_, **__):
        raise Fail("opset 99 is beyond me\nand more")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(CheckpointError, match=r"does not run it; an older --opset may do.*beyond me$"):
        export(scene.tiny(), "onnx", tmp_path / "tiny.onnx")
    assert not list(tmp_path.iterdir())


def test_halves_are_computed_in(tmp_path):
    model = scene.tiny()
    export(model, "onnx", tmp_path / "tiny.onnx", dtype="float16")
    found = run(tmp_path / "tiny.onnx", scene.images().half())
    assert found.dtype == torch.float16
    assert scene.relative(found.float(), scene.features(model, scene.images())) < 1e-2


def test_what_no_file_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "LARGEST", 1000)
    with pytest.raises(
        UsageError, match=r"an ONNX file holds 2 GB: say --dtype float16, or --to torch-export"
    ):
        export(scene.tiny(), "onnx", tmp_path / "tiny.onnx")
