"""The metadata of a model card: what the Hub sorts models by, and every result as a `model-index`."""

import re
from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from carp_eval.checkpoints.publishing.hub_config import HubRecord
from carp_eval.data.table import row_of
from carp_eval.results import Result, Score

# Those of the Hub's own identifiers that released weights of the field bear; others are `other` and a name.
HUB_LICENCES = frozenset(
    {
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "isc",
        "unlicense",
        "zlib",
        "cc",
        "cc0-1.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "openrail",
        "agpl-3.0",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl-2.1",
        "lgpl-3.0",
        "mpl-2.0",
        "epl-2.0",
        "eupl-1.2",
        "unknown",
    }
)
PIPELINE = "image-feature-extraction"
CLASSIFIERS = frozenset({"knn", "linear", "semisup", "finetune", "fewshot", "voc07"})
# As the Hub's metrics are called; others keep our names.
METRICS = {"top1": "accuracy", "top5": "top-5 accuracy", "map": "mAP"}


def metadata(record: HubRecord, results: Sequence[Result]) -> ModelCardData:
    """Return the metadata of a model card.

    Args:
        record: The model.
        results: What was measured of it.
    """
    readable = record.trunk.timm_name is not None
    licence, licence_name = licences(record.licence)
    tags = [
        PIPELINE,
        "self-supervised-learning",
        "carp-eval",
        record.trunk.architecture,
        _slug(record.method),
    ]
    found = [_entry(result, score) for result in results for score in result.scores]
    trained_on = hub_id(record.dataset or "")
    return ModelCardData(
        library_name="timm" if readable else "carp-eval",
        pipeline_tag=PIPELINE,
        license=licence,
        license_name=licence_name,
        datasets=[trained_on] if trained_on else None,
        tags=[tag for tag in tags if tag],
        model_name=record.name.rpartition("/")[2] if found else None,
        eval_results=found or None,
    )


def licences(licence: str) -> tuple[str, str | None]:
    """Return the Hub's identifier of a licence, and its name where the Hub has no identifier for it.

    Args:
        licence: An SPDX identifier or any name; empty where it is unknown.
    """
    known = _slug(licence) or "unknown"
    return (known, None) if known in HUB_LICENCES else ("other", known)


def hub_id(dataset: str) -> str | None:
    """Return what the Hub calls a data set; None where it does not have it, or nobody told."""
    if dataset.startswith("hf:"):
        spelled = dataset.removeprefix("hf:").partition("@")[0]
        return spelled if re.fullmatch(r"[\w.-]+/[\w.-]+", spelled) else None
    row = row_of(dataset) if dataset else None
    return row.hub.id if row is not None and row.hub is not None else None


def data_name(result: Result) -> str:
    """Return what to call the data of a result."""
    told = [public_name(result.query_dataset)]
    if result.query_dataset != result.dataset:
        told.append(f"learnt from {public_name(result.dataset)}")
    return ", ".join(told)


def _entry(result: Result, score: Score) -> EvalResult:
    variant = f"{result.protocol}@{result.variant}"
    classified = result.protocol in CLASSIFIERS
    return EvalResult(
        task_type="image-classification" if classified else PIPELINE,
        task_name="Image classification" if classified else "Image features",
        dataset_type=hub_id(result.query_dataset) or _slug(public_name(result.query_dataset)) or "unknown",
        dataset_name=data_name(result),
        dataset_split=result.query_split,
        metric_type=METRICS.get(score.metric, score.metric),
        metric_value=round(score.value, 4),
        metric_name=f"{variant}: {score.name}",
        metric_config=variant,
        metric_args=dict(score.settings) or None,
    )


def known_name(dataset: str | None) -> str | None:
    """Return a data set's spelling, if it means the same to everyone; None for images of one's own."""
    if dataset is None or row_of(dataset) is None:
        return dataset if dataset is not None and hub_id(dataset) is not None else None
    return dataset.partition(":")[0]


def public_name(dataset: str) -> str:
    """Return what to call a data set; of a folder its own name, for where it lies says nothing to others."""
    known = known_name(dataset)
    if known is not None:
        return known
    kind, colon, rest = dataset.partition(":")
    if not colon:
        return dataset
    last = rest.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return f"{kind}:{last}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
