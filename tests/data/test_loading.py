import gc
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
import torch

from carp_eval.data.folders import FolderSource
from carp_eval.data.image_loader import default_workers
from carp_eval.data.loading import batches, in_memory, pixel_batches
from carp_eval.data.pixels import PixelImages, pixels_of
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.skipping import SkippedImages
from carp_eval.errors import BadImageError, DataError
from tests.data.pictures import picture, write_folder

PREPARE = Preprocessing(6, 6, "bicubic", (0.5,) * 3, (0.5,) * 3)
KEPT = Preprocessing(None, None, "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def images(tmp_path):
    return FolderSource("pets", write_folder(tmp_path, {"cat": 7, "dog": 6})).open("train")


def damage(images, *numbers):
    for number in numbers:
        path = images.folder / images.key(number)
        path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_come_in_order_and_carry_their_number(images, num_workers):
    made = list(batches(images, PREPARE, batch_size=5, num_workers=num_workers))
    assert [batch.index.tolist() for batch in made] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12]]
    for batch in made:
        for row, number in zip(batch.images, batch.index.tolist(), strict=True):
            assert torch.equal(row, PREPARE(picture(number)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_some_images_can_be_asked_for(images, num_workers):
    made = list(batches(images, PREPARE, batch_size=2, indices=[12, 3, 3], num_workers=num_workers))
    assert [batch.index.tolist() for batch in made] == [[12, 3], [3]]
    assert torch.equal(made[1].images[0], PREPARE(picture(3)))
    assert list(batches(images, PREPARE, batch_size=2, indices=[], num_workers=num_workers)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_stops_the_loading_and_is_named(images, num_workers):
    damage(images, 8)
    with pytest.raises(BadImageError) as caught:
        list(batches(images, PREPARE, batch_size=5, num_workers=num_workers))
    message = str(caught.value)
    assert message.startswith(f"{images.folder}/dog/1.png cannot be read as an image: ")
    assert message.endswith("repair or remove it, or leave such images out with --skip-bad")
    assert "Traceback" not in message


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_are_left_out_and_listed_on_request(images, num_workers):
    damage(images, 0, 5, 6, 7, 8, 9)
    skipped = SkippedImages()
    made = list(batches(images, PREPARE, batch_size=5, num_workers=num_workers, skip_bad=skipped))
    assert [batch.index.tolist() for batch in made] == [[1, 2, 3, 4], [10, 11, 12]]
    assert torch.equal(made[1].images[0], PREPARE(picture(10)))
    assert sorted(skipped.by_number) == [0, 5, 6, 7, 8, 9]
    assert skipped.by_number[7].key == "dog/0.png"
    assert "dog/0.png cannot be read" in skipped.by_number[7].reason


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_cannot_be_prepared_is_named_too(images, num_workers):
    wide = Preprocessing(None, 7, "bicubic", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(
        BadImageError, match=r"cat/0\.png in pets: the image has 8 x 6 pixels, the crop takes 7"
    ):
        list(batches(images, wide, batch_size=5, num_workers=num_workers))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_of_several_sizes_need_a_crop(images, num_workers):
    picture(size=(9, 9)).save(images.folder / "cat" / "1.png")
    with pytest.raises(
        DataError, match=r"pets come out in several sizes, such as \(3, 6, 8\) and \(3, 9, 9\)"
    ):
        list(batches(images, KEPT, batch_size=5, num_workers=num_workers))


def test_loading_leaves_the_callers_random_state_alone(images):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(batches(images, PREPARE, batch_size=5, num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def threads_of_the_process(image):
    return torch.full((1, 1, 1), float(torch.get_num_threads()))


def kill_the_process(image):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_runs_one_thread(images):
    (batch,) = batches(images, threads_of_the_process, batch_size=13, num_workers=1)
    assert batch.images.unique().tolist() == [1.0]


@dataclass(frozen=True)
class PrioritySeen(Preprocessing):
    """Makes an image of the process's own niceness."""

    def pixels(self, image):
        return torch.full((3, 1, 1), os.nice(0), dtype=torch.uint8)


@pytest.mark.parametrize("stand_back", [False, True])
def test_workers_stand_back_where_they_are_asked_to(images, stand_back):
    prepare = PrioritySeen(None, None, "bicubic", (0.5,) * 3, (0.5,) * 3)
    (batch,) = pixel_batches(images, prepare, [list(range(13))], num_workers=1, stand_back=stand_back)
    # No process can be nicer than 19.
    assert batch.images.unique().tolist() == [min(19, os.nice(0) + 10 * stand_back)]


def test_a_killed_worker_is_a_clear_error(images):
    with pytest.raises(DataError, match="a process that loads images was killed"):
        list(batches(images, kill_the_process, batch_size=5, num_workers=1))


def test_pixels_in_memory_need_no_loader():
    chance = np.random.default_rng(0)
    pixels = torch.from_numpy(chance.integers(0, 256, (9, 3, 6, 6), dtype=np.uint8))
    images = PixelImages("x", "train", pixels, np.zeros(9, dtype=np.int64), ("a",))
    made = list(batches(images, PREPARE, batch_size=4, indices=[8, 0, 1, 2, 3]))
    assert [batch.index.tolist() for batch in made] == [[8, 0, 1, 2], [3]]
    for batch in made:
        for row, number in zip(batch.images, batch.index.tolist(), strict=True):
            assert torch.equal(row, PREPARE(images.image(number)))
    for chunk in ([1, 2, 3], [0, 2, 1, 3], [5]):
        (some,) = pixel_batches(images, PREPARE, [chunk])
        assert some.index.tolist() == chunk
        assert torch.equal(some.images, pixels[chunk])
    # What must be resized goes the long way, to the same end.
    larger = Preprocessing(9, 8, "bicubic", (0.5,) * 3, (0.5,) * 3)
    (batch,) = batches(images, larger, batch_size=9, num_workers=0)
    assert torch.equal(batch.images[4], larger(images.image(4)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_split_can_be_decoded_once(images, channels):
    decoded = in_memory(images, channels=channels, num_workers=2)
    pixels = pixels_of(decoded)
    assert pixels.shape == (13, channels, 6, 8)
    for number in (0, 12):
        expected = np.asarray(picture(number) if channels == 3 else picture(number).convert("L"))
        assert np.array_equal(pixels[number].permute(1, 2, 0).squeeze(-1).numpy(), expected)
    assert np.array_equal(decoded.labels, images.labels)
    assert in_memory(decoded, channels=channels) is decoded
    assert pixels_of(in_memory(decoded, channels=4 - channels)).shape[1] == 4 - channels


def test_workers_are_chosen_by_the_cores_of_this_process(tmp_path, monkeypatch):
    images = FolderSource("x", write_folder(tmp_path, {"a": 2})).open("train")
    assert default_workers(images) == 0
    images.labels = np.zeros(10_000, dtype=np.int64)
    for cores, processes, workers in ((1, 1, 1), (8, 1, 8), (64, 1, 16), (64, 8, 8), (4, 8, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert default_workers(images) == workers


def slow(image):
    time.sleep(0.05)
    return torch.zeros(1, 1, 1)


def load_slowly(images, started):
    os.setsid()
    for _ in batches(images, slow, batch_size=1, num_workers=2):
        started.set()


def test_no_worker_outlives_its_parent(tmp_path, capfd):
    images = FolderSource("x", write_folder(tmp_path, {"cat": 400})).open("train")
    context = multiprocessing.get_context("fork")
    events = [context.Event() for _ in range(2)]
    interrupted, killed = parents = [
        context.Process(target=load_slowly, args=(images, event)) for event in events
    ]
    for parent in parents:
        parent.start()
    assert all(event.wait(timeout=20) for event in events)
    workers = [worker for parent in parents for worker in psutil.Process(parent.pid).children()]
    assert len(workers) == 4
    # As Ctrl-C does: to every process of the group at once.
    os.killpg(interrupted.pid, signal.SIGINT)
    killed.kill()
    for parent in parents:
        parent.join(timeout=20)
        assert parent.exitcode
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive
    # The parent that was interrupted tells where, maybe in the midst of another error; the workers say nothing.
    told = capfd.readouterr().err
    assert "KeyboardInterrupt" in told
    assert "_worker_loop" not in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_leaves_the_batches_whole(images, number):
    loading = batches(images, PREPARE, batch_size=1, num_workers=2)
    # One batch from each worker: before that, one may not have started yet.
    next(loading), next(loading)
    workers = psutil.Process().children()
    assert len(workers) == 2
    for worker in workers:
        worker.send_signal(number)
    assert len(list(loading)) == 11
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def test_loading_that_is_given_up_stops_its_workers(images):
    kept = []
    for give_up in ("closed", "collected", "in an error"):
        loading = batches(images, PREPARE, batch_size=1, num_workers=2)
        next(loading)
        workers = psutil.Process().children()
        assert len(workers) == 2
        started = time.monotonic()
        if give_up == "closed":
            loading.close()
        elif give_up == "collected":
            # In a cycle, so that only the garbage collector finds it.
            cycle = [loading]
            cycle.append(cycle)
            del loading, cycle
            gc.collect()
        else:
            with pytest.raises(ZeroDivisionError) as caught:
                loading.throw(ZeroDivisionError())
            kept.append(caught)
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert not alive
        assert time.monotonic() - started < 4
