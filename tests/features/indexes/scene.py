"""Banks on disk whose rows lie in clusters, as a trained network's do."""

import numpy as np
import torch

from carp_eval.features.bank import Bank, Fingerprint
from carp_eval.features.extraction.unfinished import Plan, UnfinishedBank
from carp_eval.features.shards import Rows, write


def clustered(rows, dim, *, seed, classes=20, spread=0.7):
    """Rectified noise around a point for each class, and the classes."""
    centres = np.random.default_rng(0).standard_normal((classes, dim))
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    features = np.maximum(centres[labels] + spread * random.standard_normal((rows, dim)), 0)
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def make_bank(folder, features, labels, *, shard_rows=700, dtype="float16", weights="ab", manifest="cd"):
    """Write features as a bank, in shards."""
    classes = int(labels.max()) + 1
    fingerprint = Fingerprint(
        weights_sha256=weights,
        branch="teacher",
        layer="pool",
        preprocessing={"resize": 8},
        manifest_sha256=manifest,
        dtype=dtype,
    )
    making = UnfinishedBank.begin(folder, Plan(images=len(features), images_per_shard=shard_rows))
    for span in making.spans():
        part = slice(span.start, span.stop)
        rows = Rows(
            features[part].to(torch.float16 if dtype == "float16" else torch.float32),
            labels[part],
            torch.arange(span.start, span.stop),
            [f"{number:06d}.png" for number in range(span.start, span.stop)],
        )
        making.note(write(folder, span, rows))
    return making.close(
        fingerprint,
        model="net",
        dataset="clusters",
        split="train",
        dim=features.shape[1],
        class_names=tuple(f"class {number}" for number in range(classes)),
    )


def brute_force(bank: Bank, queries, k, *, own=None):
    """Every cosine in float64, by NumPy, sorted in Python: similarities and rows."""
    rows = np.concatenate([shard.numpy().astype(np.float64) for shard in bank.shards()])
    asked = queries.numpy().astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    asked /= np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-300)
    cosines = asked @ rows.T
    if own is not None:
        cosines[np.arange(len(asked)), own] = -2
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, axis=1), order
