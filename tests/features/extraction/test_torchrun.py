"""`carp extract` under torchrun itself, of which a process is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carp_eval.features.bank import Bank

EXTRACT = ["-m", "carp_eval", "extract", "-m", "random:digits", "-d", "digits", "--split", "train"]


def start(home, *of_torchrun):
    command = [sys.executable, *of_torchrun, *EXTRACT, "--device=cpu", "--workers=0", "--batch-size=32"]
    with home.with_suffix(".said").open("w") as said:
        return subprocess.Popen(
            command,
            env=os.environ | {"CARP_HOME": str(home), "OMP_NUM_THREADS": "1"},
            stderr=said,
            stdout=said,
        )


def shard_bytes(home):
    return {path.name: path.read_bytes() for path in home.glob("banks/*/features-*.safetensors")}


def pid_of_rank(agent, rank):
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
            return int(pid)
    raise AssertionError(f"torchrun has no rank {rank}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_kill_9_of_a_rank_and_the_bank_is_the_same(tmp_path):
    agent = start(
        tmp_path / "killed", "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1"
    )
    deadline = time.monotonic() + 200
    # Both of the two shards are taken.
    while len(list(tmp_path.glob("killed/banks/*/features-*.lock"))) < 2:
        assert time.monotonic() < deadline
        assert agent.poll() is None
        time.sleep(0.005)
    os.kill(pid_of_rank(agent.pid, 1), signal.SIGKILL)
    assert not list(tmp_path.glob("killed/banks/*/bank.json"))
    said = tmp_path / "killed.said"
    assert agent.wait(timeout=200) == 0, said.read_text()
    # One process reports.
    assert said.read_text().count("random:digits on digits") == 1
    assert start(tmp_path / "whole").wait(timeout=200) == 0
    assert len(shard_bytes(tmp_path / "whole")) == 2
    assert shard_bytes(tmp_path / "killed") == shard_bytes(tmp_path / "whole")
    (path,) = tmp_path.glob("killed/banks/*/")
    assert Bank.open(path).verify() == []
