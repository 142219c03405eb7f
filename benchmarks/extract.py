"""Images per second of an extraction against the network's bare forward pass.

    python benchmarks/extract.py                    # a ResNet-50 on JPEG photographs, and the digits' small network
    python benchmarks/extract.py --device cuda --images 8192 --batch-size 256

Bare: the network over the very batches that extraction sees, prepared and in memory, in the layout that extraction
uses (channels-last) and as it comes. Extraction: `features.extraction.extract` from nothing to a finished bank, the
start of loader workers, decoding, hashing and writing included. The forms take turns in one process, after a turn that
does not count; medians are given. The photographs are made here: smooth noise, 500 x 375, JPEG of quality 90.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.models import resnet50

from carp_eval.data import digits
from carp_eval.data.folders import FolderSource
from carp_eval.data.images import ModelInput
from carp_eval.data.loading import batches
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.features.extraction import extract
from carp_eval.features.forward import choose_device
from carp_eval.models.model import Model, weights_sha256
from carp_eval.models.small import SmallTrunk

IMAGENET = Preprocessing(256, 224, "bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
DIGITS = Preprocessing(28, 28, "bicubic", mean=(0.1,), std=(0.3,))
BARE, AS_IT_COMES, EXTRACTION = "bare, channels-last", "bare, as it comes", "extraction"


def write_photographs(folder, count):
    """Write smooth noise that has about a photograph's detail."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), 3)
        grain = random.normal(0, 6, (375, 500, 1))
        pixels = (np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)
        path = folder / "train" / f"class{number % 2}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
    return FolderSource("photographs", folder).open("train")


def model_of(network, dim, preprocessing):
    network.eval()
    model_input = ModelInput(preprocessing.crop, preprocessing.mean, preprocessing.std)
    return Model("benchmark", network, model_input, dim, weights_sha256(network.state_dict()))


@torch.inference_mode()
def bare(network, prepared, device, memory_format):
    network.to(device, memory_format=memory_format)
    for images in prepared:
        network(images.to(device, memory_format=memory_format)).cpu()


def measure(network, dim, images, preprocessing, options, batch_size):
    """Return the seconds of each form, turn by turn."""
    device = choose_device(options.device)
    model = model_of(network, dim, preprocessing)
    prepared = [batch.images for batch in batches(images, preprocessing, batch_size=batch_size)]

    def extraction():
        with tempfile.TemporaryDirectory() as home:
            extract(
                model,
                images,
                preprocessing,
                batch_size=batch_size,
                num_workers=options.workers,
                device=options.device,
                bank_home=Path(home),
            )

    forms = {
        BARE: lambda: bare(network, prepared, device, torch.channels_last),
        AS_IT_COMES: lambda: bare(network, prepared, device, torch.contiguous_format),
        EXTRACTION: extraction,
    }
    seconds = {form: [] for form in forms}
    for turn in range(options.repeats + 1):
        for form, run in forms.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[form].append(time.perf_counter() - started)
    return seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=512, help="Photographs for the ResNet-50.")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, help="Loader processes. Default: extraction's.")
    parser.add_argument("--device", help="Default: a GPU if there is one.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["resnet50", "digits"])
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()

    found = {}
    counts = {}
    if options.only != "digits":
        network = resnet50()
        network.fc = torch.nn.Identity()
        with tempfile.TemporaryDirectory() as folder:
            images = write_photographs(Path(folder), options.images)
            counts["ResNet-50"] = len(images)
            found["ResNet-50"] = measure(network, 2048, images, IMAGENET, options, options.batch_size)
    if options.only != "resnet50":
        images = digits.open_split("train")
        counts["digits"] = len(images)
        found["digits"] = measure(SmallTrunk(1), 256, images, DIGITS, options, options.batch_size)

    table = Table(title=f"batches of {options.batch_size} on {choose_device(options.device)}")
    for column in ("", "form", "images/s (median)", "highest", "of bare"):
        table.add_column(column, justify="right" if column not in ("", "form") else "left")
    for name, seconds in found.items():
        floor = statistics.median(seconds[BARE])
        for form, times in seconds.items():
            median = statistics.median(times)
            rates = [counts[name] / time for time in (median, min(times))]
            table.add_row(name, form, f"{rates[0]:.1f}", f"{rates[1]:.1f}", f"{floor / median:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    if options.json:
        told = vars(options) | {"json": None, "counts": counts, "seconds": found}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
