"""The forward pass: batches that are normalised on the device, and compiled networks."""

import subprocess
import sys

import pytest
import torch

from carp_eval.data.images import Batch
from carp_eval.data.loading import batches, in_chunks, pixel_batches
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.features.extraction.forward import forward
from tests.features.scene import PREPROCESSING, Net, Noise

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_normalised_by_the_batch_gives_the_bits_of_one_by_one(num_workers):
    images = Noise()
    cropped = Preprocessing(7, 5, "bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    found = list(pixel_batches(images, cropped, in_chunks(range(50), 16), num_workers=num_workers))
    assert [batch.images.dtype for batch in found] == [torch.uint8] * 4
    finish = cropped.finisher(CPU)
    for batch in found:
        laid_out = batch.images.to(memory_format=torch.channels_last)
        wanted = torch.stack([cropped(images.image(number)) for number in batch.index.tolist()])
        assert torch.equal(finish(laid_out), wanted)


def test_images_are_asked_for_as_they_are_needed():
    asked = []

    def chunks():
        for chunk in in_chunks(range(50), 4):
            asked.append(chunk[0])
            yield chunk

    loaded = pixel_batches(Noise(), PREPROCESSING, chunks(), num_workers=1)
    next(loaded)
    assert 0 < len(asked) <= 4
    loaded.close()


def test_unfinished_pixels_give_the_features_of_finished_ones():
    images, network = Noise(), Net().eval()
    plain = forward(network, batches(images, PREPROCESSING, batch_size=8, num_workers=0), device=CPU)
    finished = forward(
        network,
        pixel_batches(images, PREPROCESSING, in_chunks(range(50), 8), num_workers=0),
        device=CPU,
        finish=PREPROCESSING.finisher(CPU),
    )
    for (features, index), (others, numbers) in zip(plain, finished, strict=True):
        assert torch.equal(features, others)
        assert torch.equal(index, numbers)


COMPILES = """
import torch
from carp_eval.data.images import Batch
from carp_eval.errors import UsageError
from carp_eval.features.extraction.forward import forward

network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5))
given = [Batch(torch.randn(size, 1, 8, 8), torch.arange(size)) for size in (4, 4, 2)]
plain = [features for features, _ in forward(network, given, device=torch.device("cpu"))]
try:
    compiled = [features for features, _ in forward(network, given, device=torch.device("cpu"), compiled=True)]
except UsageError as error:
    print("refused:", error)
else:
    print("worst:", max((a - b).abs().max().item() for a, b in zip(plain, compiled)))
"""


def in_its_own_process(tmp_path, **environment):
    # The compiler keeps processes and threads, with which the tests that fork would not get on.
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", COMPILES], env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_a_compiled_network_differs_by_rounding(tmp_path):
    name, _, worst = in_its_own_process(tmp_path).partition(": ")
    if name == "refused":
        pytest.skip(f"this machine has no compiler: {worst}")
    assert float(worst) < 1e-5


@pytest.mark.slow
def test_a_machine_without_a_compiler_refuses_to_compile(tmp_path):
    told = in_its_own_process(tmp_path, CXX="/nowhere/c++")
    assert told.startswith("refused: torch cannot compile this network here")
    assert "leave --compile out" in told
    assert "Traceback" not in told


def test_a_batch_keeps_its_numbers_in_order():
    given = [Batch(torch.randn(2, 1, 8, 8), torch.tensor(numbers)) for numbers in ([7, 3], [1, 9])]
    found = [index.tolist() for _, index in forward(Net().eval(), given, device=CPU)]
    assert found == [[7, 3], [1, 9]]
