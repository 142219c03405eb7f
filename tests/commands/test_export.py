"""`carp export`, as a user types it."""

import json
import sys

import pytest
import torch

from carp_eval.checkpoints.opening import open_model
from carp_eval.commands.app import main


@pytest.fixture
def carp(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["carp", "export", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_model_is_written_and_what_was_found_is_told(carp, tmp_path):
    code, out, told = carp("--to", "torch-export", "digits.pt2", "-m", "random:digits")
    assert code == 0, told
    assert "relative_difference" in out
    assert "3 x 1 x 28 x 28" in out
    assert "network = torch.export.load('digits.pt2').module()" in out
    images = torch.rand(4, 1, 28, 28)
    with torch.inference_mode():
        wanted = open_model("random:digits").network(images)
        found = torch.export.load(tmp_path / "digits.pt2").module()(images)
    assert torch.allclose(found, wanted, atol=1e-5)
    code, _, told = carp("--to", "torch-export", "digits.pt2", "-m", "random:digits")
    assert code == 2
    assert "--force" in told
    options = ("--force", "--json", "--batch", "2", "--image-size", "32", "--dtype", "float16")
    code, out, told = carp("--to", "torch-export", "digits.pt2", "-m", "random:digits", *options)
    assert code == 0, told
    record = json.loads(out)
    assert record["compared_on"] == "2 x 1 x 32 x 32"
    assert record["relative_difference"] < 1e-2
    assert record["weights_sha256"] == open_model("random:digits").weights_sha256
    assert record["mean"] == [0.12]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "torchvison", "a.pth"), "Did you mean torchvision"),
        (("--to", "timm", "a.onnx"), "say a.safetensors"),
        (("--to", "torchvision", "a.pth", "--opset", "18"), "--opset goes with onnx"),
        (("--to", "torchvision", "a.pth", "-m", "random:digits"), "onnx and torch-export take any model"),
        (("--to", "torchvision", "a.pth", "-m", "nowhere"), "there is no model 'nowhere'"),
        (("--to", "torchvision", "a.pth", "--branch", "both"), "--branch"),
    ],
)
def test_a_mistake_is_one_clear_message_and_leaves_nothing(carp, tmp_path, arguments, said):
    code, out, told = carp(*arguments)
    assert code == 2
    assert said in told
    assert out == ""
    assert "Traceback" not in told
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}
