import sys

import pytest

from carp_eval.checkpoints.export.targets import TARGETS, check
from carp_eval.checkpoints.export.writing import WRITERS
from carp_eval.errors import StorageError, UnknownNameError, UsageError


def test_every_target_has_a_writer():
    assert TARGETS.keys() == WRITERS.keys()


@pytest.mark.parametrize(
    ("target", "name", "options", "said"),
    [
        ("timm", "a.bin", {}, r"ends in .safetensors or .pth or .pt, not in .bin: say .*a.safetensors"),
        ("onnx", "a", {}, "ends in .onnx, not in nothing: say .*a.onnx"),
        ("detectron2", "a.pkl", {}, r"detectron2 reads .pth too, which runs no code .*: say .*a.pth"),
        ("torchvision", "a.pth", {"opset": 18}, "--opset goes with onnx; torchvision has none"),
        ("timm", "a.pth", {"batch": 2}, "--batch goes with onnx and torch-export; timm has none"),
        ("timm", ".", {}, "is a folder"),
        ("timm", "there.pth", {}, "is there already: choose another name, or say --force"),
    ],
)
def test_what_cannot_be_is_told_beforehand(tmp_path, target, name, options, said):
    (tmp_path / "there.pth").write_text("mine")
    with pytest.raises(UsageError, match=said):
        check(target, tmp_path / name, **options)
    assert (tmp_path / "there.pth").read_text() == "mine"


def test_a_misspelled_target_is_answered_with_what_is_near(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean torchvision"):
        check("torchvison", tmp_path / "a.pth")


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        check("torchvision", tmp_path / "file" / "a.pth")


@pytest.mark.parametrize(
    ("target", "name", "module", "extra"),
    [("timm", "a.pth", "timm", "timm"), ("onnx", "a.onnx", "onnxscript", "export")],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, target, name, module, extra):
    for other in TARGETS[target].modules:
        # Those of its others are there, whatever this machine has.
        monkeypatch.setitem(sys.modules, other, sys)
    monkeypatch.setitem(sys.modules, module, None)
    said = rf"an export to {target} needs the package {module}.*carp-eval\[{extra}\]"
    with pytest.raises(UsageError, match=said):
        check(target, tmp_path / name)
