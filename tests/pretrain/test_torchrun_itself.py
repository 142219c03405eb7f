"""torchrun itself: one of its processes is killed, and it starts them again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from carp_eval.checkpoints import runs, training
from tests.recipes import TINY


def start(where, data, *of_torchrun):
    sets = [f"--set={key}={value}" for key, value in (TINY | {"schedule.epochs": "12"}).items()]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        *of_torchrun,
        "-m",
        "carp_eval",
    ]
    command += ["train", "digits", *sets, f"--dataset=folder:{data}", "--device=cpu", "--workers=0"]
    where.mkdir()
    with (where / "said").open("w") as said:
        return subprocess.Popen(command, cwd=where, stderr=said, stdout=said)


def processes_of(agent):
    """Return the agent's processes by rank."""
    found = {}
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
        found |= {int(value[5:]): int(pid) for value in environ if value.startswith("RANK=")}
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_kill_9_of_a_rank_and_the_training_goes_on_by_itself_to_the_bit(tmp_path, digit_folder):
    agent = start(tmp_path / "killed", digit_folder, "--max-restarts=2")
    deadline = time.monotonic() + 300
    log = None
    while time.monotonic() < deadline and agent.poll() is None:
        log = next((tmp_path / "killed").glob("runs/*/log.jsonl"), None)
        if log is not None and '"step": 40,' in log.read_text():
            break
        time.sleep(0.05)
    os.kill(processes_of(agent.pid)[1], signal.SIGKILL)
    said = tmp_path / "killed" / "said"
    assert agent.wait(timeout=300) == 0, said.read_text()
    # Told twice by one process, once of each attempt; and one folder for both.
    assert said.read_text().count("run folder:") == 2
    (killed,) = (tmp_path / "killed" / "runs").iterdir()
    assert start(tmp_path / "whole", digit_folder).wait(timeout=300) == 0
    (whole,) = (tmp_path / "whole" / "runs").iterdir()
    left, right = (training.load(folder / runs.LAST) for folder in (killed, whole))
    assert left.step == right.step == 72
    for branch in ("student", "teacher"):
        for name, tensor in getattr(left, branch).items():
            assert torch.equal(tensor, getattr(right, branch)[name]), (branch, name)
