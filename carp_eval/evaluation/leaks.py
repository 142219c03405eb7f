"""Near-duplicates between the images that are learnt from and those that are scored.

The pictures are compared, not the judged features: an untrained network finds all images alike. Thumbnails are banked
as features are, once for a data set, and whitened, because images of one kind share most of what a thumbnail shows.
What is then far closer than images of this data set usually are is looked at once more, finer, by its edges.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from PIL import Image
from torch import Tensor, nn

from carp_eval import distributed, files
from carp_eval.data.decoding import with_channels
from carp_eval.data.images import Images, ModelInput
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.data.skipping import SkippedImages
from carp_eval.evaluation.job import Settings
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import Progress, extract
from carp_eval.features.rows import plain_rows, unit_rows
from carp_eval.features.search.in_memory import search
from carp_eval.features.search.neighbours import Neighbours
from carp_eval.models.model import Model, weights_sha256

# Raised when the same images would give other leaks.
VERSION = 1
SIDE = 16
FINE_SIDE = 32
BATCH = 256
# Thumbnails looked for at a time.
CHUNK = 4096
# Measured on CIFAR-10, where about 3 % of the test images have a near-duplicate in train, by eye; on photographs, and
# on digits, which are all alike.
NEIGHBOURS = 3
CLOSER_THAN_USUAL = 0.6
SIMILARITY = (0.75, 0.9)
EDGES = 0.6
SHRINKAGE = 0.1


class Leak(NamedTuple):
    """An image that is scored, and one to learn from that is nearly the same picture.

    Attributes:
        query: Number of the scored image in its split.
        bank: Number of the other.
        mirrored: Whether one is the other's mirror image.
    """

    query: int
    bank: int
    mirrored: bool


def find(bank: Images, queries: Images, *, settings: Settings, bar: Callable[[str], Progress]) -> list[Leak]:
    """Find the images of one split that are near-duplicates of an image of another, each once.

    What is found is kept, and found again at once. Every process of a group must call this.

    Args:
        bank: The images that are learnt from.
        queries: Those that are scored.
        settings: Where banks lie and how images are loaded.
        bar: Makes a bar for work of a name.

    Raises:
        BadImageError: If an image cannot be read and such images are not left out.
        StorageError: If the disk is full, read-only or closed to us.
    """
    told = f"{VERSION} {bank.manifest_sha256} {queries.manifest_sha256} {settings.skip_bad}"
    name = f"leaks-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    kept = (settings.bank_home or files.home() / "banks") / name
    found = distributed.on_main(lambda: _read(kept))
    if found is not None:
        return found
    thumbnails, asked = (
        _thumbnails(images, settings, bar(f"thumbnails of {images.split}")) for images in (bank, queries)
    )

    def look() -> list[Leak]:
        rows, wanted = plain_rows(thumbnails.shards()), plain_rows(asked.shards())
        pictures = Pictures(bank, thumbnails.index), Pictures(queries, asked.index)
        same = identical(rows, wanted, *pictures)
        near = candidates(rows, wanted, progress=bar("comparing thumbnails"))
        alike = [pair for pair in near if pair.query not in same]
        found = same | confirmed(alike, *pictures, progress=bar("near-duplicates"))
        leaks = [
            Leak(int(asked.index[pair.query]), int(thumbnails.index[pair.bank]), pair.mirrored)
            for _, pair in sorted(found.items())
        ]
        files.write_text(kept, json.dumps(leaks))
        return leaks

    return distributed.on_main(look)


class Pictures:
    """The images behind some thumbnails, small but not as small; each is decoded once."""

    def __init__(self, images: Images, index: Int64[Tensor, " row"]) -> None:
        self._images = images
        self._numbers = index.tolist()
        self._seen: dict[int, UInt8[np.ndarray, "side side 3"]] = {}

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "side side 3"]:
        if row not in self._seen:
            image = with_channels(self._images.image(self._numbers[row]), 3)
            self._seen[row] = np.asarray(image.resize((FINE_SIDE, FINE_SIDE), Image.Resampling.BILINEAR))
        return self._seen[row]


def identical(
    bank: Float32[Tensor, "row dim"],
    queries: Float32[Tensor, "query dim"],
    bank_pictures: Pictures,
    query_pictures: Pictures,
) -> dict[int, Leak]:
    """Find the images that are the same, by thumbnail and by picture; single greys, which have no direction, too.

    Returns:
        Pairs of rows, by the query's; of several equals the first.
    """
    wanted = {row.tobytes() for row in queries.numpy()}
    first: dict[tuple[bytes, bytes], int] = {}
    for number, row in enumerate(bank.numpy()):
        thumbnail = row.tobytes()
        if thumbnail in wanted:
            first.setdefault((thumbnail, bank_pictures[number].tobytes()), number)
    there = {thumbnail for thumbnail, _ in first}
    found: dict[int, Leak] = {}
    for number, row in enumerate(queries.numpy()):
        thumbnail = row.tobytes()
        if thumbnail in there:
            same = first.get((thumbnail, query_pictures[number].tobytes()))
            if same is not None:
                found[number] = Leak(number, same, mirrored=False)
    return found


def candidates(
    bank: Float32[Tensor, "row dim"],
    queries: Float32[Tensor, "query dim"],
    *,
    progress: Progress | None = None,
) -> list[Leak]:
    """Find the thumbnails that are far closer than they usually are.

    They are compared whatever their brightness and contrast, as they are and mirrored.

    Args:
        bank: Square thumbnails in grey, one a row, to be looked through.
        queries: Those to be found.
        progress: Is told how many thumbnails have been looked for.

    Returns:
        Pairs of rows, by query.
    """
    rows, asked, mirrored = _whitened(bank, queries)
    visible = (asked.norm(dim=1) > 0).nonzero().flatten()
    if not len(visible):
        return []
    wanted = torch.cat([asked[visible], mirrored[visible]])
    parts: list[Neighbours] = []
    for part in wanted.split(CHUNK):
        parts.append(search(rows, part, k=min(NEIGHBOURS, len(rows))))
        if progress is not None:
            progress(sum(len(near.indices) for near in parts), len(wanted))
    similarities, indices = (torch.cat(values) for values in zip(*parts, strict=True))
    least = similarity_asked(similarities[: len(visible), 0])
    pairs: list[Leak] = []
    for place, neighbour in (similarities >= least).nonzero().tolist():
        turned, number = divmod(place, len(visible))
        pairs.append(Leak(int(visible[number]), int(indices[place, neighbour]), mirrored=bool(turned)))
    return sorted(pairs)


def similarity_asked(nearest: Float[Tensor, " query"]) -> float:
    """Return how similar whitened thumbnails must be to be looked at, given how similar each is to its nearest.

    Images of one kind on one ground, as digits are, all have others close by: what counts is to be much closer.
    """
    usual = (2 - 2 * nearest.median().item()) ** 0.5
    low, high = SIMILARITY
    return min(max(1 - (CLOSER_THAN_USUAL * usual) ** 2 / 2, low), high)


def confirmed(
    pairs: Sequence[Leak], bank: Pictures, queries: Pictures, *, progress: Progress | None = None
) -> dict[int, Leak]:
    """Look at pairs again, finer, and return for each query the first that holds.

    Args:
        pairs: Rows of what may be the same.
        bank: What may be found.
        queries: What is looked for.
        progress: Is told how many pairs are done.
    """
    found: dict[int, Leak] = {}
    for done, pair in enumerate(pairs, start=1):
        if pair.query not in found and same_picture(
            queries[pair.query], bank[pair.bank], mirrored=pair.mirrored
        ):
            found[pair.query] = pair
        if progress is not None:
            progress(done, len(pairs))
    return found


def same_picture(
    one: UInt8[np.ndarray, "side side 3"], other: UInt8[np.ndarray, "side side 3"], *, mirrored: bool = False
) -> bool:
    """Tell whether two small pictures are the same, by the correlation of their edges.

    Edges, because most of what two photographs share is a smooth ground. Pictures without any are not told apart here.
    """
    edges, others = _edges(one), _edges(other[:, ::-1] if mirrored else other)
    return bool(edges @ others >= EDGES * np.linalg.norm(edges) * np.linalg.norm(others))


def _thumbnails(images: Images, settings: Settings, progress: Progress) -> Bank:
    model = Model(
        name="thumbnails",
        network=nn.Flatten(),
        input=ModelInput(native_size=SIDE, mean=(0.0,), std=(1.0,)),
        feature_dim=SIDE**2,
        weights_sha256=weights_sha256({}),
    )
    squashed = Preprocessing(SIDE, None, "bilinear", model.input.mean, model.input.std, side="both")
    return extract(
        model,
        images,
        squashed,
        batch_size=BATCH,
        num_workers=settings.num_workers,
        device="cpu",
        bank_home=settings.bank_home,
        skip_bad=SkippedImages() if settings.skip_bad else None,
        progress=progress,
    )


def _whitened(bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of the bank, the queries and the mirrored queries: centred, whitened and of length one."""
    side = round(queries.shape[1] ** 0.5)
    mirrored = queries.view(-1, side, side).flip(2).reshape(queries.shape)
    units = [unit_rows([rows - rows.mean(dim=1, keepdim=True)]) for rows in (bank, queries, mirrored)]
    count = len(bank) + len(queries)
    mean = (units[0].sum(dim=0, dtype=torch.float64) + units[1].sum(dim=0, dtype=torch.float64)) / count
    covariance = -torch.outer(mean, mean)
    for rows in units[:2]:
        for part in rows.split(2**16):
            covariance += part.double().T @ part.double() / count
    values, vectors = torch.linalg.eigh(covariance)
    # The fewer the images, the less their own covariance tells of what such images share.
    floor = SHRINKAGE * (1 + len(values) / count) * values.mean()
    whiten = (vectors / (values.clamp(min=0) + floor).sqrt()).float()
    centre = mean.float()
    flat = [rows.norm(dim=1, keepdim=True) == 0 for rows in units]
    turned = [
        ((rows - centre) @ whiten).masked_fill_(grey, 0) for rows, grey in zip(units, flat, strict=True)
    ]
    bank, queries, mirrored = (unit_rows([rows]) for rows in turned)
    return bank, queries, mirrored


def _edges(picture: np.ndarray) -> Float[np.ndarray, " step"]:
    """Return the steps in grey from each pixel to the next, across and down, one below the other."""
    grey = picture.mean(axis=2, dtype=np.float64)
    return np.concatenate([np.diff(grey, axis=axis).ravel() for axis in (0, 1)])


def _read(path: Path) -> list[Leak] | None:
    try:
        content: list[Any] = json.loads(path.read_text(encoding="utf-8"))
        return [Leak(*row) for row in content]
    except (OSError, ValueError, TypeError):
        return None
