"""Images a second from shards, a folder, Parquet and a stream, as a training reads them.

    python benchmarks/reading.py            # 4,000 photographs of 40 KB on average
    python benchmarks/reading.py --quick    # 400

The same JPEG files lie in class folders, in WebDataset shards of 250, and in Parquet files of 250. `bytes`: each
image's bytes in the order of a training's epoch, nothing decoded, in one process; `tarfile` is the standard
library, which reads whole tar files from start to end and knows no order of chance. `decoded`: through
`TrainingBatches` with a resize to 64 px, in so many workers. Kinds take turns, three times; medians are given.
Files are in the page cache, as on a second epoch: what a slow disk adds is not in these numbers. `index`: the first
opening of the shards, and one after it, an image.
"""

import argparse
import io
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.transforms.v2 import functional as F

from carp_eval.data import order
from carp_eval.data.opening import open_images
from carp_eval.data.training_batches import TrainingBatches

EACH = 250


@dataclass(frozen=True)
class Small:
    """One view, small and without chance."""

    def __call__(self, image, seed):  # noqa: ARG002 - what views are called with
        """Return an image at 64 px."""
        return [F.pil_to_tensor(image.convert("RGB").resize((64, 64)))]


def write(root, count):
    """Write photographs of a kind: smooth noise, which JPEG packs to about 40 KB."""
    chance = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        rough = Image.fromarray(chance.integers(0, 256, (56, 56, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        rough.resize((448, 448), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
        encoded.append(buffer.getvalue())
    for number, content in enumerate(encoded):
        folder = root / "folder" / f"{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.jpg").write_bytes(content)
    for kind in ("shards", "parquet"):
        (root / kind).mkdir()
    for first in range(0, count, EACH):
        part = encoded[first : first + EACH]
        with tarfile.open(root / "shards" / f"train-{first // EACH:04d}.tar", "w") as tar:
            for number, content in enumerate(part, start=first):
                for ending, data in (("cls", str(number % 10).encode()), ("jpg", content)):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        rows = {"image": [{"bytes": content, "path": None} for content in part]}
        table = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
        table.to_parquet(root / "parquet" / f"train-{first // EACH:04d}.parquet")
    return sum(map(len, encoded)) / count


def bytes_of(kind, images):
    """Read every image's bytes once, in the order of an epoch."""
    if kind == "stream":
        return sum(
            len(image)
            for dealt in images.deal(seed=0, epoch=0, batch_size=50, rank=0, world_size=1)
            for image in dealt.encoded
        )
    steps = order.epoch_steps(len(images), seed=0, epoch=0, batch_size=50, shard_sizes=images.shard_sizes)
    read = {
        "folder": lambda number: images.path(number).read_bytes(),
        "shards": images._bytes if kind == "shards" else None,
        "parquet": images._content if kind == "parquet" else None,
    }[kind]
    return sum(len(read(number)) for number in steps.flatten().tolist())


def tar_bytes(root):
    total = 0
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                total += len(tar.extractfile(member).read())
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="400 images, once")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    count, turns = (400, 1) if options.quick else (4000, 3)
    datasets.disable_progress_bars()
    root = Path(tempfile.mkdtemp(prefix="reading-"))
    os.environ["CARP_HOME"] = str(root / "home")
    datasets.config.HF_DATASETS_CACHE = root / "cache"
    try:
        size = write(root, count)
        started = time.perf_counter()
        open_images(f"wds:{root}/shards", "train")
        indexed = time.perf_counter() - started
        started = time.perf_counter()
        kinds = {"shards": open_images(f"wds:{root}/shards", "train")}
        again = time.perf_counter() - started
        kinds["folder"] = open_images(f"folder:{root}/folder", "train")
        kinds["parquet"] = open_images(f"hf:{root}/parquet", "train")
        kinds["stream"] = open_images(f"hf-stream:{root}/parquet", "train")
        plain, decoded = {}, {}
        for _ in range(turns):
            for kind, images in kinds.items():
                started = time.perf_counter()
                bytes_of(kind, images)
                plain.setdefault(kind, []).append(count / (time.perf_counter() - started))
            started = time.perf_counter()
            tar_bytes(root / "shards")
            plain.setdefault("tarfile", []).append(count / (time.perf_counter() - started))
            for kind, images in kinds.items():
                training = TrainingBatches(
                    images, Small(), batch_size=50, seed=0, num_workers=options.workers
                )
                started = time.perf_counter()
                seen = sum(len(batch.index) for batch in training.epoch(0))
                decoded.setdefault(kind, []).append(seen / (time.perf_counter() - started))
                training.close()
    finally:
        shutil.rmtree(root)
    table = Table(title=f"{count} images of {size / 1000:.0f} KB, images a second")
    for column in ("", "bytes", f"decoded, {options.workers} workers"):
        table.add_column(column, justify="right" if column else "left")
    for kind in plain:
        late = f"{statistics.median(decoded[kind]):,.0f}" if kind in decoded else ""
        table.add_row(kind, f"{statistics.median(plain[kind]):,.0f}", late)
    console = Console()
    console.print(table)
    console.print(f"index: {indexed / count * 1e6:.0f} us an image, then {again / count * 1e6:.1f} us")


if __name__ == "__main__":
    main()
