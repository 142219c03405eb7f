"""Fine-tuning: trunk and classification layer trained together on random crops, each with a rate of its own.

The model that is given stays as it is: a copy is trained. BatchNorm is in training mode. In one process it sees the
whole batch; of several processes each sees its share, unless they run on GPUs, where its statistics are of the whole
batch (SyncBatchNorm). Gradients are those of the mean over the whole batch either way, and running statistics are
averaged over the processes after each epoch.
"""

import copy
from contextlib import closing

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from carp_eval import distributed, seeds
from carp_eval.cards.finetune import FinetuneCard, RatesCard
from carp_eval.data.images import Images
from carp_eval.data.loading import batches
from carp_eval.data.skipping import SkippedImages
from carp_eval.errors import DataError, UsageError
from carp_eval.evaluation import augmented, classified, few_labels, labelled_batches, leaked, probe_training
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.labelled_batches import LabelledBatches
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.probe_training import Kept, Tell, Training
from carp_eval.features.extraction.forward import forward
from carp_eval.metrics.accuracy import PLACES, rank_classes

# BatchNorm needs two images or more in every process.
FEWEST = 2


class Tuning(Training):
    """A copy of a trunk, and a head on it, trained together.

    Attributes:
        trunk: The copy.
        head: The classification layer.
        skipped: Images that could not be read.
    """

    def __init__(self, card: FinetuneCard, job: Job, images: Images, rates: RatesCard) -> None:
        """Copy the trunk, and make ready.

        Raises:
            UsageError: If there are too few images for the processes to share, or nothing to fine-tune.
        """
        size = job.preprocessing.crop
        assert size is not None
        self._seed = seeds.derive(job.seed, "finetune")
        self._device = job.device
        self._labels = torch.from_numpy(images.labels)
        self.skipped = SkippedImages()
        self._batches = LabelledBatches(
            images,
            labelled_batches.crops(card, size=size, model_input=job.model.input),
            batch_size=card.batch_size,
            seed=self._seed,
            fewest=FEWEST,
            num_workers=job.settings.num_workers,
            skip_bad=self.skipped if job.settings.skip_bad else None,
            pin_memory=job.device.type == "cuda",
        )
        if not self._batches.num_images:
            raise UsageError(
                f"fine-tuning needs {FEWEST} images a step in each process; {len(images)} images, in batches of "
                f"{card.batch_size}, are too few for {distributed.world_size()}"
            )
        trunk = copy.deepcopy(job.model.network).requires_grad_(requires_grad=True)
        if not any(True for _ in trunk.parameters()):
            raise UsageError(f"{job.model.name} has no parameters: there is nothing to fine-tune")
        if distributed.world_size() > 1 and job.device.type == "cuda":
            trunk = nn.SyncBatchNorm.convert_sync_batchnorm(trunk)
        self.trunk = trunk.to(job.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        head = probe_training.build_head(
            card, job.model.feature_dim, len(images.class_names), seed=self._seed
        )
        self.head = head.to(job.device)
        super().__init__(
            card,
            {"trunk": self.trunk, "head": self.head},
            {"trunk": rates.trunk, "head": rates.head},
            images_per_epoch=self._batches.num_images,
        )

    def epoch(self, epoch: int, tell: Tell) -> float:
        """Train for an epoch, and return its mean loss."""
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        self.trunk.train()
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            # What a trunk drops at random, it drops alike however often the run was stopped.
            torch.manual_seed(seeds.derive(self._seed, "dropout", epoch, distributed.rank()))
            with closing(self._batches.load(epoch)) as loaded:  # pyright: ignore[reportArgumentType]
                for deal, batch in zip(self._batches.deals(epoch), loaded, strict=True):
                    labels = self._labels[batch.index].to(self._device)
                    images = batch.images.to(self._device, memory_format=torch.channels_last)
                    logits = self.head(self.trunk(images)).float()
                    loss = F.cross_entropy(logits, labels, reduction="sum") / deal.size
                    self.optimiser.zero_grad()
                    loss.backward()
                    self._add_up_gradients()
                    self.optimiser.step()
                    total += loss.detach() * deal.size
                    tell(deal.size)
        self.trunk.eval()
        self._average_statistics()
        return distributed.sum_in_place(total).item() / self.images_per_epoch

    def close(self) -> None:
        """Stop the processes that load images."""
        self._batches.close()

    def _add_up_gradients(self) -> None:
        """Replace each process's gradients by their sum, in one collective: that of the mean over the whole batch."""
        if distributed.world_size() == 1:
            return
        gradients = [
            parameter.grad
            for group in self.optimiser.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        flat = distributed.sum_in_place(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _average_statistics(self) -> None:
        for buffer in self.trunk.buffers():
            if distributed.world_size() > 1 and buffer.is_floating_point():
                buffer.copy_(distributed.sum_in_place(buffer.clone()) / distributed.world_size())


def run(job: Job) -> Outcome:
    """Fine-tune a copy of the model on part of one split, and score it on another's centre crops.

    Raises:
        UsageError: If the card has no rates for the amount of labels, or the splits do not fit.
        TrainingError: If the loss is not finite.
        DataError: If a list or images are missing or cannot be read.
    """
    card = job.card
    assert isinstance(card, FinetuneCard)
    rates = card.rates_of_amount()
    settings = few_labels.amount(card)
    if rates is None:
        wanted = ", ".join(f"{key} = {value}" for key, value in settings.items())
        known = "; ".join(_amounts(rates) for rates in card.rates)
        raise UsageError(
            f"{card.kind}@{card.variant} has learning rates for {known}, not for {wanted}: give both with --lr "
            f"(trunk) and --head-lr"
        )
    whole, queries = job.images(card.bank_split), job.images(card.query_split)
    classified.check_labelled(whole, queries)
    images, notes = few_labels.choose(card, job, whole)
    judged = leaked.scored(job, whole, queries)
    with closing(Tuning(card, job, images, rates)) as tuning:
        tuning.run(Kept(job.unfinished()), "fine-tuning", bar=job.bar("fine-tuning"))
    notes += probe_training.told(tuning)
    ranking, read = _rank(tuning, job, queries)
    # Minus one tells an image that does not count.
    ranking[~judged.kept] = -1
    job.unread |= {(card.query_split, queries.key(number)) for number in np.flatnonzero(~read).tolist()}
    counted = read & judged.kept
    scored = classified.scores(
        ranking[counted],
        queries.labels[counted],
        num_classes=len(queries.class_names),
        settings={**settings, **augmented.pretraining(card, job)},
        seed=job.seed,
    )
    same = card.bank_split == card.query_split
    return Outcome(
        scores=scored,
        predictions=classified.predictions(ranking, queries.labels),
        notes=(*notes, *classified.notes(queries.class_names, same_images=same), *judged.notes),
        counts={
            "queries": int(counted.sum()),
            **judged.counts,
            **augmented.trained_on(job, images, tuning.skipped),
            **({"skipped_queries": int((~read).sum())} if job.settings.skip_bad else {}),
        },
    )


def _rank(
    tuning: Tuning, job: Job, queries: Images
) -> tuple[Int64[np.ndarray, "image place"], Bool[np.ndarray, " image"]]:
    """Name each image's likeliest classes, and tell which images could be read; -1 stands for those of the others."""
    places = min(PLACES, len(queries.class_names))
    mine = np.array_split(np.arange(len(queries)), distributed.world_size())[distributed.rank()].tolist()
    named = torch.zeros(len(queries), places, dtype=torch.int64)
    read = torch.zeros(len(queries), dtype=torch.int64)
    loaded = batches(
        queries,
        job.preprocessing,
        batch_size=job.settings.batch_size,
        num_workers=job.settings.num_workers,
        indices=mine,
        skip_bad=SkippedImages() if job.settings.skip_bad else None,
        pin_memory=job.device.type == "cuda",
    )
    bar, done = job.bar(f"scoring {job.card.query_split}"), 0
    for logits, index in forward(nn.Sequential(tuning.trunk, tuning.head), loaded, device=job.device):
        named[index] = rank_classes(logits, places=places)
        read[index] = 1
        done += len(index)
        bar(done, len(mine))
    named, read = _gathered(named, job), _gathered(read, job)
    if not read.any():
        raise DataError(f"not one image of {queries.name} ({queries.split}) could be read")
    named[read == 0] = -1
    return named.numpy(), read.bool().numpy()


def _gathered(own: Tensor, job: Job) -> Tensor:
    """Return every process's rows; where they are others', a process has zeros."""
    return distributed.sum_in_place(own.to(job.device)).cpu()


def _amounts(rates: RatesCard) -> str:
    parts: list[str] = []
    if rates.fractions:
        parts.append("fraction = " + " or ".join(f"{value:g}" for value in rates.fractions))
    if rates.images_per_class:
        parts.append("images_per_class = " + " or ".join(map(str, rates.images_per_class)))
    return ", ".join(parts)
