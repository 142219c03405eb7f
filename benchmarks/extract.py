"""Images per second of an extraction against the network's bare forward pass.

    python benchmarks/extract.py                    # a ResNet-50 on JPEG photographs, and the digits' small network
    python benchmarks/extract.py --workers 0 1 2 --only resnet50
    python benchmarks/extract.py --device cuda --images 32768 --batch-size 256 --bf16 --compile --only decoded

Bare: the network over batches of the same size, normalised and on the device, in the layout that extraction uses
(channels-last) and as it comes, in the same precision, compiled if extraction's is. On a processor they are the very
batches that extraction sees; on a GPU, a few of them over and over. Extraction: `features.extraction.extract` from
nothing to a finished bank, the start of loader workers, decoding, hashing and writing included. The forms take turns
in one process, after a turn that does not count; medians are given. `of bare, cores` compares the seconds that cores
worked, not those that went by: other programs on the machine move it less.

The photographs are made here: smooth noise, 500 x 375, JPEG of quality 90. `decoded` are such pixels in memory, at 224.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from functools import partial
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
from carp_eval.data.pixels import PixelImages
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.features.extraction.forward import choose_device
from carp_eval.features.extraction.profile import Profile
from carp_eval.features.extraction.running import extract
from carp_eval.models.model import Model, weights_sha256
from carp_eval.models.small import SmallTrunk

FEW_BATCHES = 16
IMAGENET = Preprocessing(256, 224, "bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
KEPT = Preprocessing(224, 224, "bicubic", mean=IMAGENET.mean, std=IMAGENET.std)
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


class Decoded(PixelImages):
    """Noise at 224, in memory, whose hash is not taken anew each time."""

    def __init__(self, count):
        generator = torch.Generator().manual_seed(0)
        few = torch.randint(0, 256, (min(count, 1024), 3, 224, 224), dtype=torch.uint8, generator=generator)
        pixels = few.repeat(-(-count // len(few)), 1, 1, 1)[:count]
        super().__init__("decoded", "train", pixels, np.zeros(count, dtype=np.int64), ("a",))

    def hash_manifest(self):
        """Name them: there is one such split of a length."""
        return f"decoded {len(self)}"


def prepared_batches(images, preprocessing, batch_size, device):
    """Return batches and how often to go through them: all, or on a GPU a few, over and over."""
    most = FEW_BATCHES if device.type == "cuda" else len(images)
    loaded = batches(images, preprocessing, batch_size=batch_size)
    made = [batch.images.to(device) for batch in itertools.islice(loaded, most)]
    return made, -(-len(images) // (len(made) * batch_size)) if device.type == "cuda" else 1


def bare(run, made, times, device, *, bf16):
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        for _ in range(times):
            for images in made:
                run(images)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def core_seconds():
    """Return what cores have worked for this process and its workers so far."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def measure(network, dim, images, preprocessing, options, batch_size):
    """Return wall and core seconds of each form, turn by turn."""
    device = choose_device(options.device)
    model = model_of(network, dim, preprocessing)
    made, times = prepared_batches(images, preprocessing, batch_size, device)
    network.to(device)
    run = torch.compile(network) if options.compile else network

    def bare_in(memory_format):
        network.to(memory_format=memory_format)
        laid_out = [batch.to(memory_format=memory_format) for batch in made]
        return lambda: bare(run, laid_out, times, device, bf16=options.bf16)

    def extraction(workers):
        profile = Profile()
        with tempfile.TemporaryDirectory() as home:
            extract(
                model,
                images,
                preprocessing,
                precision="bf16" if options.bf16 else "float32",
                compiled=options.compile,
                batch_size=batch_size,
                num_workers=workers,
                device=options.device,
                bank_home=Path(home),
                profile=profile if options.profile else None,
            )
        if options.profile:
            print(json.dumps(profile.describe(), indent=2))

    forms = {BARE: lambda: bare_in(torch.channels_last)}
    if device.type != "cuda":
        forms[AS_IT_COMES] = lambda: bare_in(torch.contiguous_format)
    for workers in options.workers or [None]:
        name = EXTRACTION if workers is None else f"{EXTRACTION}, {workers} workers"
        forms[name] = lambda workers=workers: partial(extraction, workers)
    seconds = {form: [] for form in forms}
    for turn in range(options.repeats + 1):
        for form, prepare in forms.items():
            run_form = prepare()
            started, worked = time.perf_counter(), core_seconds()
            run_form()
            if turn:
                seconds[form].append((time.perf_counter() - started, core_seconds() - worked))
    return seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=512, help="Photographs for the ResNet-50.")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", help="Loader processes. Default: extraction's.")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true", help="Print each extraction's profile.")
    parser.add_argument("--device", help="Default: a GPU if there is one.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["resnet50", "decoded", "digits"])
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()

    found = {}
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ["resnet50", "digits"] if options.only is None else [options.only]:
            if name == "digits":
                images, network, dim, preprocessing = digits.open_split("train"), SmallTrunk(1), 256, DIGITS
            else:
                network, dim, preprocessing = resnet50(), 2048, IMAGENET if name == "resnet50" else KEPT
                network.fc = torch.nn.Identity()
                images = (
                    write_photographs(Path(folder), options.images)
                    if name == "resnet50"
                    else Decoded(options.images)
                )
            counts[name] = len(images)
            found[name] = measure(network, dim, images, preprocessing, options, options.batch_size)

    table = Table(title=f"batches of {options.batch_size} on {choose_device(options.device)}")
    for column in ("", "form", "images/s (median)", "highest", "of bare", "of bare, cores"):
        table.add_column(column, justify="right" if column not in ("", "form") else "left")
    for name, seconds in found.items():
        floor, least_work = (statistics.median(times) for times in zip(*seconds[BARE], strict=True))
        for form, both in seconds.items():
            times, work = zip(*both, strict=True)
            median = statistics.median(times)
            rates = [counts[name] / time for time in (median, min(times))]
            ratios = [floor / median, least_work / statistics.median(work)]
            table.add_row(
                name, form, *(f"{rate:,.1f}" for rate in rates), *(f"{ratio:.3f}" for ratio in ratios)
            )
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
