"""What commands import: by the names of modules, so that what makes them quick is held without a clock."""

import gc
import json
import os
import subprocess
import sys

import pytest

from carp_eval.commands import importing

# Beside torch: what no evaluation on ready banks computes with. The digits themselves are scikit-learn's.
NOT_NEEDED = [
    "torchvision",
    "torch._dynamo",
    "torch._inductor",
    "timm",
    "transformers",
    "datasets",
    "accelerate",
]
NOT_NEEDED += ["huggingface_hub", "matplotlib", "jinja2", "sympy", "umap", "gdown"]


def loaded(folder, *arguments):
    """Run `carp` in a process of its own, and return the modules that it has loaded in the end."""
    script = (
        "import json, sys\n"
        "from carp_eval.commands.app import main\n"
        f"sys.argv = ['carp', *{list(map(str, arguments))!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stopped:\n"
        "    assert not stopped.code, stopped.code\n"
        "print('MODULES' + json.dumps(sorted(sys.modules)))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, env=at_home(folder)
    )
    assert told.returncode == 0, told.stderr
    return set(json.loads(told.stdout.rpartition("MODULES")[2]))


def at_home(folder):
    return os.environ | {"CARP_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("model", ["pixels:digits", "random:digits"])
def test_an_evaluation_on_ready_banks_imports_neither_transforms_nor_other_libraries(tmp_path, model):
    command = ("eval", "knn", "-m", model, "-d", "digits", "--no-leak-check")
    loaded(tmp_path, *command)
    modules = loaded(tmp_path, *command)
    assert {"torch", "carp_eval.evaluation.knn"} <= modules
    assert modules.intersection(NOT_NEEDED) == set()


def test_opening_a_model_imports_its_own_door_alone(tmp_path):
    modules = loaded(tmp_path, "eval", "knn", "-m", "pixels:digits", "-d", "digits", "--dry-run")
    doors = {name for name in modules if name.startswith("carp_eval.checkpoints.doors.")}
    assert doors == {f"carp_eval.checkpoints.doors.{name}" for name in ("from_training", "wrapping")}


def test_garbage_is_looked_for_again_after_imports():
    assert gc.isenabled()
    with importing.undisturbed():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count()
    with pytest.raises(ImportError), importing.undisturbed():
        import carp_eval.no_such_module  # noqa: F401
    assert gc.isenabled()


def test_what_was_made_after_the_first_imports_may_be_garbage(monkeypatch):
    with importing.undisturbed():
        pass
    frozen = gc.get_freeze_count()
    made = [[] for _ in range(100_000)]
    with importing.undisturbed():
        pass
    assert gc.get_freeze_count() <= frozen
    assert len(made) == 100_000


def test_who_had_switched_it_off_finds_it_off():
    gc.disable()
    try:
        with importing.undisturbed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
