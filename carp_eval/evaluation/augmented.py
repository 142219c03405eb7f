"""A linear probe on random crops: the trunk is frozen, and runs anew on each epoch's crops.

The trunk stays in evaluation mode, so that BatchNorm uses what pretraining has left and nothing of it changes. Each
process runs it on its share of a batch; the features are gathered in the batch's order, and every process then takes
the same step of the head. So their number moves nothing but the rounding of the trunk.
"""

from collections.abc import Iterator
from contextlib import closing

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from carp_eval import distributed, seeds
from carp_eval.cards.linear import AugmentedLinearCard
from carp_eval.cards.pixel_training import PixelTrainingCard
from carp_eval.data.images import Images
from carp_eval.data.skipping import SkippedImages
from carp_eval.evaluation import classified, labelled_batches, leaked, probe_training
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.labelled_batches import Deal, LabelledBatches
from carp_eval.evaluation.leaked import Scored
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.probe_training import Kept, Tell, Training
from carp_eval.features.bank import Bank
from carp_eval.features.bank_view import BankView
from carp_eval.features.extraction.forward import Part, forward
from carp_eval.features.rows import plain_rows
from carp_eval.metrics.accuracy import PLACES, rank_classes
from carp_eval.results import Setting

CHUNK = 4096


class FrozenTraining(Training):
    """A head that is trained on the features that a frozen trunk gives of random crops.

    Attributes:
        head: The classification layer.
        skipped: Images that could not be read.
    """

    def __init__(
        self, card: PixelTrainingCard, job: Job, images: Images, *, learning_rate: float, place: str = ""
    ) -> None:
        """Make ready.

        Args:
            card: The protocol.
            job: Model, device and settings.
            images: What is trained on.
            learning_rate: As the card has it.
            place: What tells this training's chance from that of others of the same job.
        """
        size = job.preprocessing.crop
        assert size is not None
        seed = seeds.derive(job.seed, "probe", place)
        self.skipped = SkippedImages()
        self._batches = LabelledBatches(
            images,
            labelled_batches.crops(card, size=size, model_input=job.model.input),
            batch_size=card.batch_size,
            seed=seed,
            chunk=job.settings.batch_size,
            num_workers=job.settings.num_workers,
            skip_bad=self.skipped if job.settings.skip_bad else None,
            pin_memory=job.device.type == "cuda",
        )
        self._network = job.model.network
        self._device = job.device
        self._labels = torch.from_numpy(images.labels).to(job.device)
        head = probe_training.build_head(card, job.model.feature_dim, len(images.class_names), seed=seed)
        self.head = head.to(job.device)
        super().__init__(
            card, {"head": self.head}, {"head": learning_rate}, images_per_epoch=self._batches.num_images
        )

    def epoch(self, epoch: int, tell: Tell) -> float:
        """Train for an epoch, and return its mean loss."""
        total = 0.0
        with closing(forward(self._network, self._batches.load(epoch), device=self._device)) as parts:  # pyright: ignore[reportArgumentType]
            for deal in self._batches.deals(epoch):
                features, labels = self._gathered(deal, parts, tell)
                loss = F.cross_entropy(self.head(features), labels)
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.step()
                total += loss.item() * deal.size
        return total / self.images_per_epoch

    def close(self) -> None:
        """Stop the processes that load images."""
        self._batches.close()

    def _gathered(
        self, deal: Deal, parts: Iterator[Part], tell: Tell
    ) -> tuple[Float32[Tensor, "image dim"], Int64[Tensor, " image"]]:
        """Return a batch's features and labels, those of all processes in the batch's order."""
        features = torch.zeros(deal.size, self.head.in_features)
        index = torch.zeros(deal.size, dtype=torch.int64)
        place = deal.start
        while place < deal.stop:
            part, numbers = next(parts)
            span = slice(place, place + len(part))
            features[span], index[span] = part, numbers
            place = span.stop
            tell(len(part))
        if deal.size > len(deal.numbers):
            tell(deal.size - len(deal.numbers))
        # Zeros where other processes' images stand: the sum is a gather, exact and in order.
        features = distributed.sum_in_place(features.to(self._device))
        index = distributed.sum_in_place(index.to(self._device))
        return features, self._labels[index]


def rank(
    head: nn.Linear, features: Float32[Tensor, "image dim"], *, device: torch.device
) -> Int64[Tensor, "image place"]:
    """Name each image's likeliest classes, the likeliest first: five, or all where there are fewer."""
    places = min(PLACES, head.out_features)
    with torch.inference_mode():
        named = [
            rank_classes(head(part.to(device)).float(), places=places).cpu() for part in features.split(CHUNK)
        ]
    return torch.cat(named)


def run(job: Job) -> Outcome:
    """Train a linear head on random crops of one split, and score it on another's centre crops.

    Raises:
        UsageError: If the splits do not fit, or images lack labels.
        TrainingError: If the loss is not finite.
        DataError: If images cannot be read.
    """
    card = job.card
    assert isinstance(card, AugmentedLinearCard)
    images, asked = job.images(card.bank_split), job.images(card.query_split)
    classified.check_labelled(images, asked)
    judged = leaked.scored(job, images, asked)
    queries = judged_bank(job, judged)
    features = plain_rows(queries.shards())
    training = FrozenTraining(card, job, images, learning_rate=card.learning_rate)

    def judge() -> float:
        return (
            (rank(training.head, features, device=job.device)[:, 0] == queries.labels).double().mean().item()
        )

    with closing(training):
        best = card.reported == "best"
        training.run(Kept(job.unfinished()), "head", bar=job.bar("training"), judge=judge if best else None)
    notes = probe_training.told(training)
    if best:
        training.take_best()
        number = training.curve.index(max(training.curve)) + 1
        notes += [
            f"epoch {number} of {card.epochs} was chosen on the scored images themselves: the number flatters",
            "top-1 by epoch: " + " ".join(f"{score * 100:.2f}" for score in training.curve),
        ]
    ranking = rank(training.head, features, device=job.device).numpy()
    labels = queries.labels.numpy()
    notes += classified.notes(images.class_names, same_images=card.bank_split == card.query_split)
    settings: dict[str, Setting] = pretraining(card, job)
    return Outcome(
        scores=classified.scores(
            ranking, labels, num_classes=len(images.class_names), settings=settings, seed=job.seed
        ),
        predictions=classified.predictions(ranking, labels),
        notes=(*notes, *judged.notes),
        counts={**trained_on(job, images, training.skipped), **judged.counts},
        head={name: value.detach().cpu() for name, value in training.head.state_dict().items()},
    )


def judged_bank(job: Job, judged: Scored) -> Bank:
    """Return the bank of the images that are scored; which those are is noted for the record."""
    queries = job.bank(job.card.query_split)
    seen = torch.from_numpy(judged.kept)[queries.index]
    if not seen.all():
        queries = BankView(queries, rows=seen.nonzero().flatten())
    job.judged = queries
    return queries


def pretraining(card: PixelTrainingCard, job: Job) -> dict[str, Setting]:
    """Say what the model was pretrained on, where the card asks for it and it is known."""
    known = job.model.dataset
    return {"pretrained_on": known} if card.tell_pretraining and known is not None else {}


def trained_on(job: Job, images: Images, skipped: SkippedImages) -> dict[str, int]:
    """Count the images of a training and, where it may skip some, those that any process has; the job notes them."""
    if not job.settings.skip_bad:
        return {"trained": len(images)}
    numbers: set[int] = set().union(*distributed.gather_objects(set(skipped.by_number)))
    job.unread |= {(job.card.bank_split, images.key(number)) for number in numbers}
    return {"trained": len(images) - len(numbers), "skipped_in_training": len(numbers)}
