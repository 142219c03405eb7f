"""Rows of a bank on a plane: near what is near, by principal components or by UMAP where it is installed."""

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

from carp_eval.report import unfolding

# Coordinates are whole numbers from 0 to this.
GRID = 4000
# UMAP looks at 15 neighbours of each row.
FEWEST_FOR_UMAP = 21


@dataclass(frozen=True)
class Axes:
    """The two directions along which rows vary most.

    Attributes:
        mean: Of the rows.
        directions: Of unit length, each turned so that the largest coordinate on it is positive.
        share: Of the variance, on both together.
    """

    mean: Float64[Tensor, " dim"]
    directions: Float64[Tensor, "dim axis"]
    share: float

    def __call__(self, rows: Float[Tensor, "row dim"]) -> Float32[Tensor, "row axis"]:
        """Project rows, those that the axes were made of or others."""
        return ((rows.double() - self.mean) @ self.directions).float()


@dataclass(frozen=True)
class Frame:
    """What brings coordinates onto the grid, one scale for both axes.

    Attributes:
        middle: What comes to the grid's middle.
        span: What is as long as the grid.
    """

    middle: Float32[Tensor, " axis"]
    span: float

    def __call__(self, placed: Float32[Tensor, "row axis"]) -> Int[Tensor, "row axis"]:
        """Return the cell of each row; what lies outside comes to the border."""
        cells = (placed - self.middle) / self.span * GRID + GRID / 2
        return cells.round().clamp(0, GRID).int()


@dataclass(frozen=True)
class Plane:
    """Rows on a plane.

    Attributes:
        cells: The place of each row on the grid.
        how: How it was drawn, in words.
        axes: What further rows are projected by; None where the way of drawing knows no others.
        frame: What brings projections onto the grid.
    """

    cells: Int[Tensor, "row axis"]
    how: str
    axes: Axes | None
    frame: Frame

    def place(self, rows: Float[Tensor, "row dim"]) -> Int[Tensor, "row axis"] | None:
        """Return the cells of rows that the plane was not made of; None where only its own rows have a place."""
        return None if self.axes is None else self.frame(self.axes(rows))


def umap_is_there() -> bool:
    """Tell whether UMAP is installed."""
    return find_spec("umap") is not None


def draw(rows: Float32[Tensor, "row dim"], *, umap: bool, seed: int = 0) -> Plane:
    """Lay rows out.

    Args:
        rows: Two or more, of unit length.
        umap: Whether by UMAP, where there are rows enough for it; else by principal components.
        seed: Of UMAP.
    """
    axes, word = principal(rows), ""
    if umap and len(rows) >= FEWEST_FOR_UMAP:
        try:
            placed = unfolding.unfold(rows, axes(rows), seed=seed)
        except ImportError as error:
            placed, word = None, f"; UMAP is installed and cannot be loaded: {error}"
        if placed is not None:
            return _plane(placed, "by UMAP", None)
    how = f"on their two principal components, which hold {axes.share:.0%} of the variance{word}"
    return _plane(axes(rows), how, axes)


def principal(rows: Float[Tensor, "row dim"]) -> Axes:
    """Find the two directions along which rows vary most.

    Args:
        rows: Two or more of them.
    """
    mean = rows.double().mean(dim=0)
    centred = rows.double() - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    kept = vectors[:, -2:].flip(1)
    placed = centred @ kept
    turned = placed.gather(0, placed.abs().argmax(dim=0, keepdim=True)).sign()
    total = float(values.clamp(min=0).sum())
    share = float(values[-2:].clamp(min=0).sum()) / total if total > 0 else 0.0
    return Axes(mean, kept * turned.where(turned != 0, 1), share)


def _plane(placed: Float32[Tensor, "row axis"], how: str, axes: Axes | None) -> Plane:
    low, high = placed.min(dim=0).values, placed.max(dim=0).values
    frame = Frame((low + high) / 2, float((high - low).max()) or 1.0)
    return Plane(frame(placed), how, axes, frame)
