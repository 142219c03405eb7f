"""The command line as a user meets it: in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from carp_eval.commands.app import main


def carp(*arguments, cwd=None, home=None, **environment):
    variables = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb", **environment}
    if home is not None:
        variables["CARP_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "carp_eval", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=variables,
        timeout=120,
    )


COMMANDS = [
    [],
    ["train"],
    ["extract"],
    ["export"],
    ["eval"],
    ["eval", "knn"],
    ["eval", "cluster"],
    ["eval", "labelfree"],
    ["eval", "linear"],
    ["eval", "retrieval"],
    ["bank"],
    ["bank", "info"],
    ["bank", "verify"],
    ["data"],
    ["data", "list"],
    ["zoo"],
    ["zoo", "list"],
    ["zoo", "show"],
    ["pull"],
    ["push"],
    ["quickstart"],
    ["doctor"],
    ["compare"],
    ["leaderboard"],
    ["runs"],
]


def test_help_answers_without_importing_torch():
    script = (
        "import sys\n"
        "from carp_eval.commands.app import app\n"
        "from typer.testing import CliRunner\n"
        f"for command in {COMMANDS!r}:\n"
        "    told = CliRunner().invoke(app, [*command, '--help'])\n"
        "    assert told.exit_code == 0 and 'Usage' in told.output, (command, told.output)\n"
        "heavy = {'torch', 'faiss', 'sklearn', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_models_are_listed_without_importing_torch():
    script = (
        "import sys\n"
        "from carp_eval.commands.app import app\n"
        "from typer.testing import CliRunner\n"
        "for command in (['list'], ['show', 'dino-resnet50-800ep-mc']):\n"
        "    assert CliRunner().invoke(app, ['zoo', *command]).exit_code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "train"),
        (["eval", "kn"], "knn"),
        (["train", "digts"], "Did you mean digits"),
        (["train", "--epoch"], "No such option"),
        (["train", "--set", "schedule.epoch=3"], "Did you mean schedule.epochs"),
        (["train", "--set", "schedule.epochs"], "--set expects KEY=VALUE"),
        (["train", "--resume", "last", "--set", "a=1"], "leave RECIPE, --set and -d out"),
        (["train", "-d", "cifar11"], "Did you mean cifar10"),
        (["eval", "knn"], "train one with `carp train`"),
        (["eval", "knn", "-m", "nowhere"], "there is no model 'nowhere'"),
        (["eval", "knn", "-m", "random:digits", "--variant", "dyno"], "Did you mean dino"),
        (["eval", "knn", "-m", "random:digits", "-d", "folder:nowhere"], "nowhere"),
        (["eval", "knn", "-m", "random:digits", "--k", "0"], "Invalid value"),
        (["eval", "knn", "-m", "random:digits", "-d", "folder:nowhere", "--device", "cuba"], "device 'cuba'"),
        (["extract", "-m", "random:digits", "-d", "folder:nowhere", "--device", "cuba"], "device 'cuba'"),
        (["eval", "knn", "-m", "random:digits", "--k", "1000000"], "1000000"),
        (["eval", "knn", "-m", "random:digits", "--temperature", "-1"], "greater than 0"),
        (["zoo", "show", "carp-resnet50-400-mc"], "Did you mean carp-resnet50-400ep-mc"),
        (["bank", "info", "nowhere"], "nowhere"),
        (["bank", "verify", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_clear_message_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["carp", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    assert stopped.value.code == 2, told.err
    assert expected in told.err
    assert told.out == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}


def test_a_mistake_shows_no_traceback_in_a_process_of_its_own(tmp_path):
    told = carp("zoo", "show", "carp-resnet50-400-mc", cwd=tmp_path)
    assert told.returncode == 2
    assert "Did you mean carp-resnet50-400ep-mc" in told.stderr
    assert "Traceback" not in told.stderr


def test_doctor_finds_what_is_installed(tmp_path):
    told = carp("doctor", "--json", home=tmp_path)
    parts = {row["part"]: row for row in json.loads(told.stdout)}
    assert told.returncode == 0, told.stdout
    assert {"python", "torch", "torchvision", "faiss", "GPU", "cache", "data digits"} <= parts.keys()
    assert str(tmp_path) in parts["cache"]["found"]


def test_doctor_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CARP_HOME", str(tmp_path / "file" / "inside"))
    monkeypatch.setattr(sys, "argv", ["carp", "doctor", "--json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "CARP_HOME" in capsys.readouterr().out


def test_data_list_tells_of_every_data_set(tmp_path):
    rows = {row["name"]: row for row in json.loads(carp("data", "list", "--json", home=tmp_path).stdout)}
    assert {"digits", "cifar10", "cifar100", "stl10", "imagenet"} <= rows.keys()
    assert all(row["licence"] and row["splits"] and row["to get it"] for row in rows.values())


def test_train_lists_its_recipes():
    told = carp("train", "--list")
    assert "carp-resnet50-200ep" in told.stdout
    assert "digits" in told.stdout
