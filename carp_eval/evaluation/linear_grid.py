"""Many linear classifiers on the same features, trained at once.

All weights are columns of one matrix: a step is two matrix products for all pairs, in which the features are read
once, where one by one they are read for each.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval import seeds
from carp_eval.errors import UsageError
from carp_eval.evaluation.grid_rows import GridRows
from carp_eval.evaluation.held_out import Judged
from carp_eval.features.extraction.running import Progress
from carp_eval.features.search.streamed import Keeper

JUDGED_VALUES = 2**23
STEPS_TOLD = 10
# What is kept of 48 pairs on ImageNet is 800 MB.
SECONDS_BETWEEN_SAVES = 300.0


class Heads:
    """Linear classifiers, one for each pair of a learning rate and a weight decay.

    Attributes:
        weights: A class's pairs side by side: so laid out, softmax takes many pairs in one instruction, and with few
            classes far less time.
        biases: Likewise.
        num_classes: Classes of one pair.
    """

    def __init__(
        self, weights: Float[Tensor, "dim column"], biases: Float[Tensor, " column"], num_classes: int
    ) -> None:
        self.weights = weights
        self.biases = biases
        self.num_classes = num_classes

    def logits(self, features: Float[Tensor, "row dim"]) -> Float[Tensor, "row class pair"]:
        """Score every class by every pair."""
        scores = torch.addmm(self.biases, features, self.weights)
        return scores.view(len(features), self.num_classes, -1)

    def alone(self, pair: int) -> "Heads":
        """Return one pair's classifier."""
        columns = slice(pair, None, len(self.biases) // self.num_classes)
        return Heads(self.weights[:, columns].contiguous(), self.biases[columns], self.num_classes)


class Kept:
    """Keeps the state of a training, so that a kill costs minutes of it.

    Attributes:
        name: Tells the training from others in what was kept.
    """

    def __init__(self, keeper: Keeper | None, name: str, *, beside: Mapping[str, Any] | None = None) -> None:
        """Say where.

        Args:
            keeper: Keeps the state; None keeps nothing.
            name: Tells the training from others: of equal names, one goes on where the other was stopped.
            beside: Plain values and tensors that are kept along.
        """
        self.name = name
        self._keeper, self._beside = keeper, dict(beside or {})
        self._saved = time.monotonic()

    def load(self) -> Mapping[str, Any] | None:
        """Return what was kept of this training; None if nothing was."""
        state = None if self._keeper is None else self._keeper.load()
        return None if state is None or state.get("name") != self.name else state

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep the state of a training."""
        if self._keeper is not None:
            self._keeper.save({"name": self.name, **self._beside, **state})
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether minutes have passed since the state was kept."""
        return self._keeper is not None and time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES


NOT_KEPT = Kept(None, "")


def memory_of(*, dim: int, width: int, batch_size: int, count: int) -> int:
    """Return the bytes that training and judging take beside the rows.

    Args:
        dim: Width of a row.
        width: Classes of all pairs together.
        batch_size: Rows in a step.
        count: Rows there are.
    """
    heads, scores, order = 4 * dim * width, 8 * batch_size * width, 40 * count
    return heads + max(heads + scores, 16 * JUDGED_VALUES) + order


def train(
    features: GridRows,
    labels: Int64[Tensor, " row"],
    rows: Int64[Tensor, " trained"],
    *,
    learning_rates: Float[Tensor, " pair"],
    weight_decays: Float[Tensor, " pair"],
    num_classes: int,
    epochs: int,
    batch_size: int,
    momentum: float,
    seed: int,
    progress: Progress | None = None,
    kept: Kept = NOT_KEPT,
) -> Heads:
    """Train every pair from zero by SGD with momentum on the cross-entropy, all on the same batches.

    The update is PyTorch's: v <- momentum v + g + decay w, then w <- w - rate v, biases as weights. The rate falls
    from step to step as a cosine. What an epoch leaves below a whole batch waits for the next shuffle.

    Args:
        features: All rows.
        labels: Their classes.
        rows: Which of them are trained on, ascending.
        learning_rates: Of the first step, for each pair.
        weight_decays: For each pair.
        num_classes: Classes to tell apart.
        epochs: Passes over the rows.
        batch_size: Rows in a step.
        momentum: Of the velocity.
        seed: Of the order of rows.
        progress: Is told of steps done, some at a time.
        kept: Keeps the state: a training that was stopped goes on to the bit.

    Raises:
        UsageError: If there are fewer rows than a batch has.
    """
    if len(rows) < batch_size:
        raise UsageError(
            f"a batch has {batch_size} images, the bank has {len(rows)} to train on: lower the card's batch_size"
        )
    dim, pairs = features.dim, len(learning_rates)
    width = pairs * num_classes
    zero = torch.zeros((), dtype=features.dtype)
    state = kept.load() or {"steps": 0}
    done = int(state["steps"])
    # These alone, not all that was kept: its number of steps would be kept again, with weights of more.
    moving = {
        name: state[name] if done else zero.new_zeros(shape)
        for name, shape in {
            "weights": (dim, width),
            "velocity": (dim, width),
            "biases": (width,),
            "bias_velocity": (width,),
        }.items()
    }
    weights, velocity = moving["weights"], moving["velocity"]
    biases, bias_velocity = moving["biases"], moving["bias_velocity"]
    rate, decay = (values.to(zero).repeat(num_classes) for values in (learning_rates, weight_decays))
    scores = zero.new_empty(batch_size, width)
    # Softmax of the scores, then, less one at each row's class, the gradient.
    slope = torch.empty_like(scores)
    by_class, slope_by_class = (matrix.view(batch_size, num_classes, pairs) for matrix in (scores, slope))
    less_one = zero.new_full((batch_size, 1, pairs), -1.0)
    steps = len(rows) // batch_size
    for epoch in range(done // steps, epochs):
        order = features.order(rows, seeds.generator(seed, "linear", epoch))
        first = done - epoch * steps
        wanted = labels[order[first * batch_size : steps * batch_size]].split(batch_size)
        for batch, own in zip(features.batches(order, size=batch_size, first=first), wanted, strict=True):
            torch.addmm(biases, batch, weights, out=scores)
            torch.softmax(by_class, dim=1, out=slope_by_class)
            slope_by_class.scatter_add_(1, own.view(-1, 1, 1).expand_as(less_one), less_one)
            fall = (1 + math.cos(math.pi * done / (epochs * steps))) / 2
            velocity.addmm_(batch.T, slope, beta=momentum, alpha=1 / batch_size)
            _move(weights, velocity, rate=rate, decay=decay, fall=fall)
            bias_velocity.mul_(momentum).add_(slope.sum(dim=0), alpha=1 / batch_size)
            _move(biases, bias_velocity, rate=rate, decay=decay, fall=fall)
            done += 1
            if progress is not None and (done % STEPS_TOLD == 0 or done == epochs * steps):
                progress(done, epochs * steps)
            if kept.due:
                kept.save({"steps": done, **moving})
    return Heads(weights, biases, num_classes)


def judge(
    heads: Heads,
    features: GridRows,
    labels: Int64[Tensor, " row"],
    rows: Int64[Tensor, " judged"],
) -> Judged:
    """Tell for every pair how often it names the class of some rows, and its mean cross-entropy there."""
    width = heads.weights.shape[1]
    pairs = width // heads.num_classes
    right = torch.zeros(pairs, dtype=torch.float64)
    loss = torch.zeros(pairs, dtype=torch.float64)
    for chosen in rows.split(max(1, JUDGED_VALUES // max(width, features.dim))):
        logits = heads.logits(features.take(chosen))
        wanted = labels[chosen, None]
        right += (logits.argmax(dim=1) == wanted).sum(dim=0)
        own = logits.gather(1, wanted[:, :, None].expand(-1, 1, pairs))[:, 0]
        loss += (logits.logsumexp(dim=1) - own).sum(dim=0, dtype=torch.float64)
    return Judged(right / len(rows), loss / len(rows))


def _move(weights: Tensor, velocity: Tensor, *, rate: Tensor, decay: Tensor, fall: float) -> None:
    velocity.addcmul_(weights, decay)
    weights.addcmul_(velocity, rate, value=-fall)
