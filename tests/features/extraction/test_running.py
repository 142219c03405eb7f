import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from carp_eval.data.skipping import SkippedImages
from carp_eval.errors import BadImageError, BankError, CarpError, StorageError, UsageError
from carp_eval.features.bank import Bank
from tests.features.processes import Started, remount_read_only, with_own_disk
from tests.features.scene import DIM, Net, Noise, expected, take


def shard_bytes(home):
    """The content of every shard, by name."""
    return {path.name: path.read_bytes() for path in sorted(home.glob("*/features-*.safetensors"))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    take(home)
    return shard_bytes(home)


def test_rows_are_what_the_network_gives_for_each_image(tmp_path):
    images = Noise()
    bank = take(tmp_path, dtype="float32")
    assert (len(bank), bank.dim) == (50, DIM)
    assert bank.index.tolist() == list(range(50))
    assert bank.labels.tolist() == images.labels.tolist()
    assert bank.keys == [f"größe/{number:03d}.png" for number in range(50)]
    wanted = np.stack([expected(images, number) for number in range(50)])
    np.testing.assert_allclose(bank.features().numpy(), wanted, atol=1e-5)
    assert wanted.std() > 0.1


@pytest.mark.parametrize(
    "options", [{"batch_size": 50, "shard_rows": 50}, {"batch_size": 7, "shard_rows": 20}, {"num_workers": 2}]
)
def test_batches_shards_and_workers_move_no_feature(tmp_path, options):
    bank, other = take(tmp_path / "a", dtype="float32"), take(tmp_path / "b", dtype="float32", **options)
    torch.testing.assert_close(bank.features(), other.features(), atol=1e-6, rtol=1e-5)
    assert torch.equal(bank.labels, other.labels)
    assert bank.keys == other.keys


def test_a_shard_ends_where_a_batch_does(tmp_path):
    # Or a resumed extraction would batch its images otherwise, and round otherwise.
    assert [len(part) for part in take(tmp_path, batch_size=4, shard_rows=13).shards()] == [16, 16, 16, 2]


def test_the_same_settings_give_the_same_bytes(tmp_path, undisturbed):
    take(tmp_path, num_workers=1)
    assert shard_bytes(tmp_path) == undisturbed


def test_float16_is_the_rounded_float32(tmp_path):
    half, full = take(tmp_path, dtype="float16"), take(tmp_path, dtype="float32")
    assert half.features().dtype == torch.float16
    assert torch.equal(half.features(), full.features().half())


def test_bf16_is_another_bank(tmp_path):
    plain, autocast = take(tmp_path), take(tmp_path, precision="bf16")
    assert plain.path != autocast.path
    assert not torch.equal(plain.features(), autocast.features())
    torch.testing.assert_close(plain.features(), autocast.features(), atol=0.05, rtol=0.05)


def test_a_whole_bank_is_used_again(tmp_path):
    first = take(tmp_path)
    network = Net().eval()
    second = take(tmp_path, network=network)
    assert network.seen == 0
    assert second.record == first.record


def test_what_decides_the_rows_decides_the_bank(tmp_path):
    bank = take(tmp_path)
    other = Net().eval()
    with torch.no_grad():
        other.layers[0].bias[0] += 1e-3
    assert take(tmp_path, network=other).path != bank.path
    assert take(tmp_path, images=Noise(seed=1)).path != bank.path
    assert take(tmp_path, dtype="float32").path != bank.path
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 4


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "header"])
def test_only_a_damaged_shard_is_made_again(tmp_path, undisturbed, damage):
    path = take(tmp_path).path
    shard = path / "features-00003.safetensors"
    content = bytearray(shard.read_bytes())
    if damage == "delete":
        shard.unlink()
    else:
        content[20 if damage == "header" else -1] ^= 4
        shard.write_bytes(content[:-5] if damage == "truncate" else content)
    assert len(Bank.open(path).verify()) == 1
    assert "features-00003" in Bank.open(path).verify()[0]
    network = Net().eval()
    bank = take(tmp_path, network=network)
    assert network.seen == 8
    assert bank.verify() == []
    assert shard_bytes(tmp_path) == undisturbed


def test_a_damaged_record_is_made_again(tmp_path, undisturbed):
    path = take(tmp_path).path
    (path / "bank.json").write_text("{")
    with pytest.raises(BankError, match="damaged"):
        Bank.open(path)
    assert take(tmp_path).verify() == []
    assert shard_bytes(tmp_path) == undisturbed


def test_a_bank_in_the_place_of_another_is_refused(tmp_path):
    path = take(tmp_path).path
    other = take(tmp_path, dtype="float32").path
    for file in other.iterdir():
        file.unlink()
    other.rmdir()
    path.rename(other)
    with pytest.raises(BankError, match="differs from what was asked for in dtype"):
        take(tmp_path, dtype="float32")


def count_seen(home, delay=0.0):
    """Extract, and return how many images went through the network."""
    network = Net(delay=delay).eval()
    take(home, network=network)
    return network.seen


def test_killed_at_any_time_it_goes_on_at_its_next_shard(tmp_path, undisturbed):
    started = Started(count_seen, tmp_path, 0.1)
    while len(list(tmp_path.glob("*/features-*.json"))) < 2:
        assert started.process.is_alive(), "the extraction ended before it could be killed"
        time.sleep(0.01)
    os.kill(started.process.pid, signal.SIGKILL)
    assert started.answer() is None
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with pytest.raises(BankError, match="has not finished"):
        Bank.open(folder)
    left = len(list(folder.glob("features-*.json")))
    (folder / ".features-00000.safetensors.x.tmp").write_bytes(b"what a killed write leaves behind")
    network = Net().eval()
    bank = take(tmp_path, network=network)
    assert network.seen == 50 - 8 * left
    assert shard_bytes(tmp_path) == undisturbed
    assert bank.verify() == []
    assert {path.name for path in folder.iterdir()} == {"bank.json", *undisturbed}


def test_a_finished_shard_that_is_damaged_before_the_rest_is_done_is_made_again(tmp_path, undisturbed):
    images = Noise(bad=[40])
    images.content = Noise().content
    with pytest.raises(BadImageError, match="040"):
        take(tmp_path, images=images)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    shard = folder / "features-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    network = Net().eval()
    take(tmp_path, network=network)
    assert network.seen == 50 - 4 * 8  # of five finished shards one was damaged
    assert shard_bytes(tmp_path) == undisturbed


def test_another_batch_size_goes_on_with_the_shards_that_are_there(tmp_path):
    with pytest.raises(BadImageError):
        take(tmp_path, images=Noise(bad=[40]))
    network = Net().eval()
    bank = take(tmp_path, network=network, batch_size=6, shard_rows=30)
    assert network.seen == 50 - 40
    assert bank.index.tolist() == list(range(50))
    torch.testing.assert_close(bank.features(), take(tmp_path / "other").features())


def test_two_processes_make_one_bank(tmp_path, undisturbed):
    started = [Started(count_seen, tmp_path, 0.1) for _ in range(2)]
    seen = [process.answer() for process in started]
    assert sum(seen) == 50
    assert min(seen) > 0
    assert shard_bytes(tmp_path) == undisturbed


def as_rank(rank, store, function, *args):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        return function(*args)
    finally:
        dist.destroy_process_group()


def test_two_ranks_make_the_same_bytes_as_one(tmp_path, undisturbed):
    home, store = tmp_path / "banks", tmp_path / "store"
    started = [Started(as_rank, rank, store, count_seen, home, 0.1) for rank in range(2)]
    seen = [rank.answer() for rank in started]
    assert sum(seen) == 50
    assert min(seen) > 0
    assert shard_bytes(home) == undisturbed


def say_error(home, bad):
    try:
        take(home, images=Noise(bad=bad))
    except CarpError as error:
        return f"{type(error).__name__}: {error}"


def test_an_error_in_one_rank_ends_all(tmp_path):
    home, store = tmp_path / "banks", tmp_path / "store"
    told = [Started(as_rank, rank, store, say_error, home, [12]) for rank in range(2)]
    # Whoever meets it first lets go of the shard, and the other one meets it too.
    assert all(rank.answer().startswith("BadImageError: größe/012.png is not an image") for rank in told)


def test_an_image_that_cannot_be_read_stops_or_is_left_out_on_request(tmp_path):
    images = Noise(bad=[0, 9, *range(16, 24), 49])
    with pytest.raises(BadImageError, match=r"größe/000\.png.*--skip-bad"):
        take(tmp_path, images=images)
    skipped = SkippedImages()
    bank = take(tmp_path, images=images, skip_bad=skipped)
    left = [number for number in range(50) if number not in images.bad]
    assert bank.index.tolist() == left
    assert bank.labels.tolist() == images.labels[left].tolist()
    assert sorted(skipped.by_number) == sorted(images.bad)
    assert [image.number for image in bank.skipped] == sorted(images.bad)
    torch.testing.assert_close(bank.features(), take(tmp_path / "all").features()[left])
    again = SkippedImages()
    take(tmp_path, images=images, skip_bad=again)
    assert again.by_number == skipped.by_number
    with pytest.raises(BadImageError, match="--skip-bad"):
        take(tmp_path, images=images)


def test_a_split_without_a_readable_image_gives_no_bank(tmp_path):
    with pytest.raises(BankError, match="not one image"):
        take(tmp_path, images=Noise(10, bad=range(10)), skip_bad=SkippedImages())


class Broken(Net):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, images):
        features = super().forward(images)
        if self.seen == 12:
            features[2, 1] = self.value
        return features


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN"), (-np.inf, "infinite"), (70000.0, "too large for float16")]
)
def test_features_that_are_not_finite_name_their_images(tmp_path, value, what):
    with pytest.raises(BankError, match=rf"1 images.*{what}.*größe/010\.png"):
        take(tmp_path, network=Broken(value).eval())
    assert len(shard_bytes(tmp_path)) == 1


def test_large_features_fit_in_float32(tmp_path):
    assert take(tmp_path, network=Broken(70000.0).eval(), dtype="float32").features()[10, 1] == 70000


def test_a_network_in_training_mode_is_run_in_evaluation_mode_and_put_back(tmp_path, undisturbed):
    network = Net().train()
    network.layers[2].eval()
    statistics = network.layers[1].running_mean.clone()
    take(tmp_path, network=network)
    assert shard_bytes(tmp_path) == undisturbed
    assert torch.equal(network.layers[1].running_mean, statistics)
    assert network.training
    assert not network.layers[2].training


def test_progress_counts_to_the_end(tmp_path):
    told = []
    take(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(min(done, 50), 50) for done in range(4, 53, 4)]


def test_sizes_and_devices_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(UsageError, match="at least one"):
        take(tmp_path, batch_size=0)
    with pytest.raises(UsageError, match="'abacus' cannot be used"):
        take(tmp_path, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' cannot be used"):
            take(tmp_path, device="cuda")


def test_a_file_in_the_place_of_the_bank_home_is_said(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(StorageError, match="home"):
        take(tmp_path / "home")


class FillsTheDisk(Net):
    def __init__(self, disk):
        super().__init__()
        self.disk = disk

    def forward(self, images):
        if self.seen == 24:
            with pytest.raises(OSError, match="No space left"):
                (self.disk / "full").write_bytes(bytes(1_000_000))
        return super().forward(images)


def extract_on_a_disk_that_fills(disk):
    with pytest.raises(StorageError, match="the disk is full"):
        take(disk, network=FillsTheDisk(disk).eval())
    (disk / "full").unlink()
    network = Net().eval()
    bank = take(disk, network=network)
    return network.seen, bank.verify(), shard_bytes(disk)


def test_a_full_disk_is_said_and_what_was_finished_stays(tmp_path, undisturbed):
    seen, problems, content = with_own_disk(tmp_path / "disk", extract_on_a_disk_that_fills, size="200k")
    assert 0 < seen < 50
    assert problems == []
    assert content == undisturbed


def extract_on_a_disk_that_turns_read_only(disk):
    take(disk)
    remount_read_only(disk)
    with pytest.raises(StorageError, match="read-only"):
        take(disk, images=Noise(seed=1))
    return count_seen(disk)


def test_a_read_only_disk_is_said_but_a_bank_on_it_is_used(tmp_path):
    assert with_own_disk(tmp_path / "disk", extract_on_a_disk_that_turns_read_only, size="2m") == 0
