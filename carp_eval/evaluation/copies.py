"""What copy detection searches, and with what: the blocks of Copydays, or copies made of any data set's images."""

from collections.abc import Mapping
from typing import NamedTuple

from carp_eval.cards.copydays import CopiesCard, CopyDetectionCard
from carp_eval.data import copydays, opening
from carp_eval.data.edits import EditedImages
from carp_eval.data.images import Images
from carp_eval.data.subset import Subset, draw
from carp_eval.errors import UsageError
from carp_eval.evaluation.job import Job


class Searched(NamedTuple):
    """Images whose labels say which original each is, or is a copy of; distractors have labels of their own or none.

    Attributes:
        originals: What is to be found, each once.
        blocks: What it is searched with, by the block's name.
        distractors: What is ranked among the originals; None for nothing.
        notes: What a reader of the scores must know of these images.
    """

    originals: Images
    blocks: Mapping[str, Images]
    distractors: Images | None
    notes: tuple[str, ...]


def searched(job: Job, card: CopyDetectionCard) -> Searched:
    """Open or make what the card says.

    Raises:
        UsageError: If the data set has not what the card needs; the message says what would do.
        DataError: If a data set is missing or broken.
    """
    found = _made(job, card) if isinstance(card, CopiesCard) else _native(job)
    if card.distractors is not None:
        others = drawn(
            job, card.distractors, card.distractor_split, count=card.num_distractors, what="distractors"
        )
        found = found._replace(distractors=others)
    if not found.distractors:
        return found._replace(
            distractors=None,
            notes=(
                *found.notes,
                f"searched among the {len(found.originals)} originals alone, without distractors",
            ),
        )
    distractors = f"{len(found.distractors):,} distractors of {found.distractors.name}"
    return found._replace(
        notes=(*found.notes, f"searched among {len(found.originals)} originals and {distractors}")
    )


def drawn(job: Job, spelling: str, split: str, *, count: int | None, what: str) -> Images:
    """Draw images of another data set.

    Args:
        job: The evaluation.
        spelling: The data set.
        split: Its split, where it has several.
        count: How many; None takes all.
        what: What they are for.

    Raises:
        UsageError: If there are fewer.
        DataError: If the data set is missing or broken.
    """
    source = opening.locate(spelling, data_root=job.settings.data_root)
    images = source.open(source.splits[0] if len(source.splits) == 1 else split)
    if count is not None and count > len(images):
        raise UsageError(
            f"{count:,} images of {spelling} are to be drawn as {what}, but its split {images.split} has "
            f"{len(images):,}: ask for at most --num-{what} {len(images)}"
        )
    return Subset(
        images,
        draw(len(images) if count is None else count, of=len(images), seed=job.seed, what=what),
        split=what,
    )


def _native(job: Job) -> Searched:
    """Open every block of Copydays that is there."""
    splits = opening.split_names(job.dataset, data_root=job.settings.data_root)
    blocks = [block for block in copydays.BLOCKS if block in splits]
    if copydays.ORIGINAL not in splits or not blocks:
        raise UsageError(
            f"{job.dataset} is no copy of Copydays: it has the splits {', '.join(splits)}, not original and strong. "
            f"To make copies of its own images: --variant copies"
        )
    originals = job.images(copydays.ORIGINAL)
    images = {block: job.images(block) for block in blocks}
    notes: list[str] = []
    missing = [block for block in copydays.BLOCKS if block not in splits]
    if missing:
        notes.append(
            f"{job.dataset} lacks {len(missing)} of {len(copydays.BLOCKS)} blocks: {', '.join(missing)}"
        )
    return Searched(originals, images, None, tuple(notes))


def _made(job: Job, card: CopiesCard) -> Searched:
    """Draw originals and what they may be pasted on, and make the copies; all other images are distractors."""
    splits = opening.split_names(job.dataset, data_root=job.settings.data_root)
    whole = job.images(
        splits[0] if len(splits) == 1 else card.bank_split if card.bank_split in splits else card.split
    )
    used = card.num_originals + card.num_backgrounds
    own_distractors = card.distractors is None
    wanted = (card.num_distractors or 0) if own_distractors else 0
    if used + wanted > len(whole):
        raise UsageError(
            f"{job.dataset} has {len(whole):,} images in {whole.split}, but {card.num_originals:,} originals, "
            f"{card.num_backgrounds:,} backgrounds and {wanted:,} distractors are to be drawn: "
            f"{_remedy(len(whole), card)}"
        )
    order = draw(len(whole), of=len(whole), seed=job.seed, what="copies")
    originals = Subset(whole, order[: card.num_originals], split="originals", each_its_own_class=True)
    backgrounds = Subset(whole, order[card.num_originals : used], split="backgrounds")
    count = len(whole) - used if card.num_distractors is None else card.num_distractors
    distractors = Subset(whole, order[used : used + count], split="distractors") if own_distractors else None
    blocks = {
        block: EditedImages(originals, block, backgrounds=backgrounds, seed=job.seed) for block in card.blocks
    }
    note = f"copies were made of {len(originals)} images drawn from {whole.name} ({whole.split})"
    return Searched(originals, blocks, distractors, (note,))


def _remedy(available: int, card: CopiesCard) -> str:
    left = available - card.num_backgrounds
    if left < 1:
        return f"take a data set of more than {card.num_backgrounds} images, or a card with fewer num_backgrounds"
    if left > card.num_originals:
        return f"ask for at most --num-distractors {left - card.num_originals}"
    return f"ask for fewer, such as --num-originals {max(1, left // 2)}"
