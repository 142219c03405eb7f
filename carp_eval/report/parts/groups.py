"""What was put together, clusters of k-means and prototypes of a training, as strips of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carp_eval.cards import loading
from carp_eval.checkpoints import runs
from carp_eval.checkpoints.prototypes import TrainedPrototypes, open_prototypes
from carp_eval.data.images import Images
from carp_eval.data.preprocessing import for_model
from carp_eval.errors import BankError, CarpError
from carp_eval.evaluation import assignment, gathered
from carp_eval.features import bank as banks
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import fingerprint_of
from carp_eval.report.evidence import Evidence, Shelf, newest_of_each
from carp_eval.report.found import Found
from carp_eval.report.parts.neighbours import spread
from carp_eval.report.parts.scores import data_of, model_of
from carp_eval.report.thumbnails import Shown, Thumbnails

# Lists of a page, groups of a list, and pictures of a group.
MOST, GROUPS, PICTURES = 6, 20, 12
IMPORTANCE = 60
# What `carp prototypes` takes where nothing else is said: the bank that it leaves is looked for.
PREPROCESSING, SPLIT = "knn@dino", "train"


@dataclass(frozen=True)
class Group:
    """Images that were put together.

    Attributes:
        name: `cluster 3`.
        told: How many images, and of what.
        pictures: Some of them.
    """

    name: str
    told: str
    pictures: list[Shown]


@dataclass(frozen=True)
class Groups:
    """All that was put together by one model.

    Attributes:
        title: What, by which model, of which data set.
        told: How many, and how they were chosen.
        groups: Those that are shown.
    """

    title: str
    told: str
    groups: list[Group]


def clusters(found: Sequence[Found], shelf: Shelf, thumbnails: Thumbnails) -> list[Groups]:
    """Show the clusters of each model on each data set."""

    def clustered(each: Found) -> bool:
        wanted = {"cluster", "label", "index", "key"}
        return each.result.protocol == "cluster" and wanted <= shelf.evidence(each).columns.keys()

    return [
        _clusters(shelf.evidence(each), thumbnails)
        for each in newest_of_each(list(found), fits=clustered, most=MOST)
    ]


def prototypes(
    folders: Sequence[Path], shelf: Shelf, thumbnails: Thumbnails, *, bank_home: Path | None = None
) -> list[Groups]:
    """Show the prototypes of trainings whose embeddings are banked: nothing is run for a report.

    Args:
        folders: The runs.
        shelf: Opens images; is told what is missing.
        thumbnails: Takes the pictures.
        bank_home: Folder that holds banks; None is `$CARP_HOME/banks`.
    """
    shown: list[Groups] = []
    for folder in folders:
        if len(shown) == MOST or not (folder / runs.LAST).is_file():
            continue
        try:
            opened = open_prototypes(str(folder))
        except CarpError:
            # Of a method without prototypes, or not to be read: there is nothing to show.
            continue
        dataset = opened.model.dataset
        images = None if dataset is None else shelf.images(dataset, SPLIT, manifest_sha256=None)
        if images is None:
            continue
        bank = _embeddings(opened, images, bank_home=bank_home)
        if bank is None:
            shelf.missing.append(
                f"prototypes of {folder.name}: carp prototypes -m {folder} banks their embeddings"
            )
            continue
        try:
            shown.append(_prototypes(opened, bank, images, thumbnails))
        except BankError as error:
            shelf.missing.append(f"prototypes of {folder.name}: {error}")
    return shown


def _embeddings(opened: TrainedPrototypes, images: Images, *, bank_home: Path | None) -> Bank | None:
    preprocessing = for_model(loading.preprocessing(PREPROCESSING), opened.model.input)
    wanted = fingerprint_of(opened.model, images, preprocessing, dtype="float32", precision="float32")
    try:
        return Bank.open(banks.folder(wanted, bank_home))
    except BankError:
        return None


def _prototypes(opened: TrainedPrototypes, bank: Bank, images: Images, thumbnails: Thumbnails) -> Groups:
    found = gathered.gather([assignment.assignments(bank, opened)], opened)
    groups: list[Group] = []
    for row in found.rows(GROUPS):
        surest = found.surest(row["prototype"], PICTURES)
        pictures = [
            _picture(images, place.index, bank.class_names, f", confidence {sure:.3f}", thumbnails)
            for place, sure in surest
        ]
        purity = "" if row["purity"] is None else f", {row['purity']:.0%} of class {row['class_name']}"
        groups.append(Group(f"prototype {row['prototype']}", f"{row['images']:,} images{purity}", pictures))
    use = found.use
    told = (
        f"{use.images:,} images of {bank.record.split} on {use.used:,} of {use.prototypes:,} prototypes, {use.empty:,} "
        f"empty; perplexity {use.perplexity:,.1f}. The {len(groups)} most used, the surest images first"
    )
    return Groups(f"Prototypes of {opened.model.name} on {images.name}", told, groups)


def _clusters(evidence: Evidence, thumbnails: Thumbnails) -> Groups:
    columns, result = evidence.columns, evidence.found.result
    assigned, labels = columns["cluster"], columns["label"]
    numbers, sizes = np.unique(assigned, return_counts=True)
    shown = numbers[np.argsort(-sizes, kind="stable")][:GROUPS].tolist()
    groups: list[Group] = []
    for number in shown:
        rows = np.flatnonzero(assigned == number)
        classes, counts = np.unique(labels[rows], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:3]
        mostly = ", ".join(
            f"{counts[place] / len(rows):.0%} {evidence.name_of(int(classes[place]))}" for place in order
        )
        images = evidence.queries
        pictures = (
            []
            if images is None
            else [
                _picture(images, int(columns["index"][row]), evidence.class_names, "", thumbnails)
                for row in spread(rows, PICTURES)
            ]
        )
        groups.append(Group(f"cluster {number}", f"{len(rows):,} images: {mostly}", pictures))
    told = f"{len(shown)} of {len(numbers)} clusters, the largest first; images evenly taken"
    return Groups(f"Clusters of {model_of(result)} on {data_of(result)}", told, groups)


def _picture(images: Images, index: int, names: Sequence[str], more: str, thumbnails: Thumbnails) -> Shown:
    label = int(images.labels[index])
    name = names[label] if 0 <= label < len(names) else "no class" if label < 0 else f"class {label}"
    key = assignment.as_text(images.key(index))
    return thumbnails.shown(images, index, alt=f"{name}: {key}{more}", importance=IMPORTANCE)
