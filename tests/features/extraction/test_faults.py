"""Extractions that are killed, helped, watched and damaged, with real processes."""

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from carp_eval.errors import BankError
from carp_eval.features.bank import Bank
from tests.features.processes import Started
from tests.features.scene import Net, Noise, take


def shard_bytes(home):
    """The content of every shard, by name."""
    return {path.name: path.read_bytes() for path in sorted(home.glob("*/features-*.safetensors"))}


def folder_of(home):
    (folder,) = (path for path in home.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    take(home)
    return shard_bytes(home)


def wait_for(home, pattern, *, count=1):
    started = time.monotonic()
    while len(list(home.glob(pattern))) < count:
        assert time.monotonic() - started < 60, f"no {pattern} came"
        time.sleep(0.01)


class Hangs(Net):
    """Stops answering at an image."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, images):
        if self.seen >= self.at:
            time.sleep(3600)
        return super().forward(images)


def hang(home, at):
    take(home, network=Hangs(at).eval())


def count_seen(home, delay=0.0, num_workers=0):
    network = Net(delay=delay).eval()
    take(home, network=network, num_workers=num_workers)
    return network.seen


def test_the_shards_of_a_killed_process_are_made_by_the_rest_in_the_same_run(tmp_path, undisturbed):
    hanging = Started(hang, tmp_path, 12)
    wait_for(tmp_path, "*/features-*.json")
    helping = Started(count_seen, tmp_path)
    # All but the one that is held.
    wait_for(tmp_path, "*/features-*.json", count=6)
    time.sleep(0.2)
    assert helping.process.is_alive(), "it does not wait for the shard that another holds"
    assert not (folder_of(tmp_path) / "bank.json").exists()
    os.kill(hanging.process.pid, signal.SIGKILL)
    assert helping.answer() == 50 - 8
    hanging.process.join()
    assert shard_bytes(tmp_path) == undisturbed
    assert {path.name for path in folder_of(tmp_path).iterdir()} == {"bank.json", *undisturbed}


def kill_and_resume(home, *, kills, num_workers, seed):
    """Kill one of two processes, or both, at random moments, then let one finish."""
    chance = random.Random(seed)
    for _ in range(kills):
        running = [Started(count_seen, home, 0.01, num_workers) for _ in range(2)]
        time.sleep(chance.uniform(0.0, 0.5))
        for process in running if chance.random() < 0.5 else running[:1]:
            os.kill(process.process.pid, signal.SIGKILL)
        for process in running:
            process.answer()
        if (folder := next(home.glob("*/"), None)) is not None and (folder / "bank.json").exists():
            # Begun anew, or later kills would find nothing to do.
            assert Bank.open(folder).verify() == []
            yield shard_bytes(home)
            for path in folder.iterdir():
                path.unlink()
    take(home)
    yield shard_bytes(home)


def test_kills_at_random_moments_leave_no_trace(tmp_path, undisturbed):
    for found in kill_and_resume(tmp_path, kills=3, num_workers=0, seed=1):
        assert found == undisturbed


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_no_trace(tmp_path, undisturbed):
    for seed in range(2):
        for found in kill_and_resume(tmp_path / str(seed), kills=10, num_workers=1, seed=seed):
            assert found == undisturbed


def test_a_killed_process_with_workers_frees_its_shard(tmp_path, undisturbed):
    started = Started(count_seen, tmp_path, 0.2, 1)
    wait_for(tmp_path, "*/features-*.json")
    os.kill(started.process.pid, signal.SIGKILL)
    started.answer()
    # The workers hold the dead process's files until they notice, after some seconds.
    assert 0 < count_seen(tmp_path) < 50
    assert shard_bytes(tmp_path) == undisturbed


def test_a_damaged_shard_is_said_when_it_is_made_again(tmp_path, caplog, undisturbed):
    path = take(tmp_path).path
    assert caplog.messages == []
    flipped, cut = path / "features-00001.safetensors", path / "features-00004.safetensors"
    content = bytearray(flipped.read_bytes())
    content[-3] ^= 1
    flipped.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:-7])
    network = Net().eval()
    take(tmp_path, network=network)
    assert network.seen == 16
    assert shard_bytes(tmp_path) == undisturbed
    first, second = caplog.messages
    assert "features-00001.safetensors has other bytes than were written" in first
    assert "bytes instead of" in second
    assert first.endswith("It is extracted again")
    assert second.endswith("It is extracted again")


def test_a_record_that_cannot_be_read_today_is_not_thrown_away(tmp_path, monkeypatch):
    bank = take(tmp_path)
    record = bank.path / "bank.json"
    content = record.read_bytes()
    read = Path.read_bytes

    def failing(path):
        if path == record:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", failing)
        network = Net().eval()
        with pytest.raises(BankError, match=r"cannot read .*bank\.json: Input/output error"):
            take(tmp_path, network=network)
    assert network.seen == 0
    assert record.read_bytes() == content


def test_two_jobs_repair_one_bank(tmp_path, undisturbed):
    path = take(tmp_path).path
    for number in (0, 2, 3, 5):
        (path / f"features-0000{number}.safetensors").write_bytes(b"")
    started = [Started(count_seen, tmp_path, 0.1) for _ in range(2)]
    assert sum(process.answer() for process in started) == 32
    assert shard_bytes(tmp_path) == undisturbed
    assert {path.name for path in path.iterdir()} == {"bank.json", *undisturbed}


def make_and_damage(home, rounds):
    for number in range(rounds):
        path = take(home, network=Net(delay=0.002).eval()).path
        shard = path / f"features-0000{number % 7}.safetensors"
        # Not in place: whoever has the file mapped would lose the ground under his feet, and die of SIGBUS.
        cut = path / "cut"
        cut.write_bytes(shard.read_bytes()[:-1])
        cut.replace(shard)
    take(home)


def test_who_reads_a_bank_that_is_being_made_gets_all_of_it_or_a_clear_error(tmp_path):
    wanted = take(tmp_path / "whole").features()
    home = tmp_path / "banks"
    making = Started(make_and_damage, home, 8)
    read, refused = 0, set()
    while making.process.is_alive():
        for path in home.glob("*/"):
            try:
                features = Bank.open(path).features()
            except BankError as error:
                refused.add(str(error).replace(str(path), "").partition(":")[0].strip())
            else:
                read += 1
                assert torch.equal(features, wanted)
    making.answer()
    assert read
    assert "is not a finished bank" in refused


def test_a_claim_is_of_one_process(tmp_path):
    hanging = Started(hang, tmp_path, 0)
    wait_for(tmp_path, "*/features-*.lock")
    folder = folder_of(tmp_path)
    beside = [folder / f".features-0000{number}.safetensors.x.tmp" for number in (0, 3)]
    for path in beside:
        path.write_bytes(b"half of it")
    network = Net().eval()
    images = Noise(bad=[49])
    images.content = Noise().content
    with pytest.raises(Exception, match="049"):
        take(tmp_path, images=images, network=network)
    # The first shard is not ours, the last could not be read.
    assert network.seen == 50 - 8 - 2
    assert sorted(path.name for path in folder.glob("*.lock")) == [
        "features-00000.lock",
        "features-00006.lock",
    ]
    # What a dead process left of a shard makes room for it; what a living one writes stays.
    assert [path.exists() for path in beside] == [True, False]
    os.kill(hanging.process.pid, signal.SIGKILL)
    hanging.answer()
