"""A bank's rows read past the package, and made without images: what answers are held against."""

import json

import numpy as np
import torch
from safetensors.numpy import load_file


def read(bank):
    """Return features of unit length, labels and image numbers, by the files alone."""
    record = json.loads((bank.path / "bank.json").read_text())
    parts = [load_file(bank.path / shard["file"]) for shard in record["shards"]]
    features = np.concatenate([part["features"] for part in parts]).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return (
        features,
        np.concatenate([part["labels"] for part in parts]),
        np.concatenate([part["index"] for part in parts]),
    )


def make(folder, *, labels, names, keys=None, dim=8, seed=0, model="made", split="test"):
    """Write a bank of random rows, in one shard, of a data set that is nowhere."""
    from carp_eval.features.bank import Bank, BankRecord, Fingerprint
    from carp_eval.features.shards import Rows, Span, file_name, write

    count = len(labels)
    generator = torch.Generator().manual_seed(seed)
    rows = Rows(
        features=torch.randn(count, dim, generator=generator),
        labels=torch.tensor(labels),
        index=torch.arange(count),
        keys=list(keys or (f"image-{row}.png" for row in range(count))),
    )
    folder.mkdir(parents=True)
    shard = write(folder, Span(file_name(0), 0, count), rows)
    record = BankRecord(
        fingerprint=Fingerprint(
            weights_sha256=f"{seed}" * 64,
            branch="",
            layer="pool",
            preprocessing={},
            manifest_sha256="0" * 64,
            dtype="float32",
        ),
        model=model,
        dataset="nowhere",
        split=split,
        images=count,
        rows=count,
        dim=dim,
        class_names=tuple(names),
        shards=(shard,),
        created="2026-01-01T00:00:00+00:00",
    )
    (folder / "bank.json").write_text(record.model_dump_json())
    return Bank.open(folder)


def neighbours(features, row, k):
    """Return the k rows nearest to one, itself left out, by cosine similarity in float64."""
    similarities = features @ features[row]
    order = [other for other in np.argsort(-similarities, kind="stable") if other != row]
    return order[:k], similarities


def taken_for(features, labels, row, k=20):
    """Return the class that a row's neighbours vote for, each by exp(similarity / 0.07)."""
    near, similarities = neighbours(features, row, k)
    votes = {}
    for other in near:
        votes[labels[other]] = votes.get(labels[other], 0) + np.exp(similarities[other] / 0.07)
    return max(votes, key=votes.get)
