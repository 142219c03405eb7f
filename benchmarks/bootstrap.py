"""Time of bootstrap intervals against drawing random numbers.

    python benchmarks/bootstrap.py                 # 1,000 resamples of 50,000 images
    python benchmarks/bootstrap.py --quick         # of 5,000 images: tries the script, says little

The forms take turns in one process, after a turn that does not count; medians are given. Two floors, both drawn with
NumPy's `default_rng`, some resamples at a time and not kept:
- images: 1,000 x 50,000 numbers of images, what a bootstrap draws that draws images;
- its own: the random numbers that the form itself draws. Where images share a few values, it draws how often each
  comes; its own floor is then so low that reading the values once takes longer.

Forms: `right or wrong` is top-1; `any number` is a real value for each image, as average precision is; `mean per class`
is the mean of class accuracies, `--classes` of them; `clusters` is NMI, AMI, ARI and four more of as many clusters as
classes, which draws halves without replacement.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from carp_eval.metrics import bootstrap, clustering

CHUNK = 2**19


def in_chunks(draw, resamples, width):
    """A floor: draws of some resamples at a time, thrown away."""
    per_chunk = max(1, CHUNK // width)

    def run():
        random = np.random.default_rng(0)
        for start in range(0, resamples, per_chunk):
            draw(random, min(per_chunk, resamples - start))

    return run


def forms_of(images, num_classes, resamples):
    """Each form, what it draws, and how that is drawn alone."""
    random = np.random.default_rng(0)
    labels = random.permutation(images) % num_classes
    predicted = np.where(random.random(images) < 0.7, labels, random.integers(num_classes, size=images))
    right, values = predicted == labels, random.random(images)
    cells = np.bincount(labels * 2 + right, minlength=2 * num_classes)

    def often(counts):
        return in_chunks(
            lambda random, size: random.multinomial(images, counts / images, size=size),
            resamples,
            len(counts),
        )

    def halves(random, size):
        for _ in range(size):
            random.permutation(labels)

    drawn = in_chunks(lambda random, size: random.integers(images, size=(size, images)), resamples, images)
    return drawn, {
        "right or wrong": (
            lambda: bootstrap.mean_interval(right, seed=0, resamples=resamples),
            often(np.bincount(right)),
        ),
        "any number": (lambda: bootstrap.mean_interval(values, seed=0, resamples=resamples), drawn),
        "mean per class": (
            lambda: bootstrap.mean_per_class_interval(
                predicted, labels, num_classes=num_classes, seed=0, resamples=resamples
            ),
            often(cells),
        ),
        "clusters": (
            lambda: clustering.intervals(labels, predicted, seed=0, resamples=resamples),
            in_chunks(halves, resamples, images),
        ),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()
    images = options.images or (5_000 if options.quick else 50_000)
    num_classes = options.classes or (100 if options.quick else 1000)

    draw_images, forms = forms_of(images, num_classes, options.resamples)
    timed = {"images, drawn": draw_images}
    for name, (form, own) in forms.items():
        timed |= {f"{name}, drawn": own, name: form}
    seconds = {name: [] for name in timed}
    for turn in range(options.repeats + 1):
        for name, form in timed.items():
            started = time.perf_counter()
            form()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    table = Table(title=f"{options.resamples} resamples of {images} images of {num_classes} classes")
    for column in ("form", "median s", "lowest", "x drawing images", "x drawing its own"):
        table.add_column(column, justify="left" if column == "form" else "right")
    floor = medians["images, drawn"]
    table.add_row("images, drawn", f"{floor:.4f}", f"{min(seconds['images, drawn']):.4f}", "1.00", "")
    for name in forms:
        table.add_row(
            name,
            f"{medians[name]:.4f}",
            f"{min(seconds[name]):.4f}",
            f"{medians[name] / floor:.2f}",
            f"{medians[name] / medians[f'{name}, drawn']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, NumPy {np.__version__}"
    )
    if options.json:
        told = vars(options) | {"json": None, "images": images, "classes": num_classes, "seconds": seconds}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
