"""Memory of an extraction: that of a shard, whatever the number of images."""

from pathlib import Path

import numpy as np
from torch import nn

from carp_eval.data.images import Images
from carp_eval.features.extraction.running import extract
from tests.features.processes import Started
from tests.features.scene import PREPROCESSING, SIDE, model

DIM = 2048


class Endless(Images):
    """Grey images without end, that keep nothing of their own."""

    name, split, class_names = "endless", "train", ("a",)

    def __init__(self, count):
        from PIL import Image

        # One label, as often as it is asked for.
        self.labels = np.broadcast_to(np.zeros(1, dtype=np.int64), count)
        self._image = Image.new("L", (SIDE, SIDE), 100)

    def image(self, index):
        return self._image.copy()

    def key(self, index):
        return str(index)

    def hash_manifest(self):
        return f"{len(self)}"


def kilobytes_more(home, count):
    """Extract, and return by how much the process grew at most."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, DIM)).eval()
    wrapped = model(network)
    object.__setattr__(wrapped, "feature_dim", DIM)

    def run(images, bank_home):
        return extract(
            wrapped,
            images,
            PREPROCESSING,
            batch_size=128,
            shard_rows=512,
            num_workers=0,
            device="cpu",
            bank_home=bank_home,
        )

    run(Endless(1_024), home / "once")
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    assert len(run(Endless(count), home / "again")) == count
    return status("VmHWM") - before


def status(name):
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")
    )
    return int(line.split()[1])


def test_eight_times_the_images_take_no_more_memory(tmp_path):
    few, many = (Started(kilobytes_more, tmp_path / str(n), n).answer() for n in (2_000, 16_000))
    # The features alone would be 57 MB more, in float16. What the allocator keeps differs by ten from run to run.
    assert many - few < 28_000, f"{few} kB and {many} kB"
