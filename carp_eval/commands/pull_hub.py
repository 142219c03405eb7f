"""`carp pull hf:USER/NAME`: a model that was pushed comes back, its results and its bank with it."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carp_eval.checkpoints.publishing.getting import Got


def pull(spelling: str, *, to: Path | None = None, use_bank: bool = False) -> dict[str, Any]:
    """Get a model from the Hub, and check that what came with it is of its weights.

    Args:
        spelling: `hf:USER/NAME[@REVISION]`.
        to: A folder to copy it to.
        use_bank: Whether the bank that came along is put where protocols look for theirs.

    Returns:
        What is told of it; `scores` has a row for each score that came along.

    Raises:
        HubError: If the Hub cannot be reached or refuses, or has no such model.
        CheckpointError: If a file came damaged, or the weights are not those that the model's description tells.
        BankError: If the bank is damaged or of other weights.
        UsageError: If there is no bank to use, or `to` holds other files.
    """
    from carp_eval.checkpoints.publishing import getting
    from carp_eval.commands import progress
    from carp_eval.errors import UsageError
    from carp_eval.features import known_banks

    with progress.bars(in_bytes=True) as bars:
        got = getting.get(spelling, to=to, progress=bars(spelling))
    weights = _weights(got)
    told: dict[str, Any] = {
        "name": spelling,
        "state": "pulled",
        "commit": got.snapshot.commit,
        "folder": str(got.folder),
        "weights sha256": weights,
        "files": list(got.snapshot.files),
        "left there": list(got.snapshot.left),
    }
    if got.bank is not None:
        bank = known_banks.check(got.bank, weights_sha256=weights)
        place = known_banks.keep(bank) if use_bank else got.bank
        told["bank"] = (
            f"{place}: {bank.record.dataset}, {bank.record.split}, {len(bank):,} rows, every hash right"
        )
        if not use_bank:
            told["bank"] += "; --use-bank lets protocols use it, on the word of whoever pushed it"
    elif use_bank:
        raise UsageError(f"no bank came with {spelling}: leave --use-bank out")
    told["scores"] = _scores(got, weights)
    return told | {
        "use it": f"carp eval knn -m {shlex.quote(spelling if to is None else f'hf:{got.folder}')}"
    }


def show(told: dict[str, Any]) -> None:
    """Print what came, and a table of the results that came along."""
    from carp_eval.commands import tables

    shown = {
        key: value
        for key, value in told.items()
        if value not in ([], "") and key not in ("name", "scores", "use it")
    }
    tables.show_mapping(shown, title=told["name"], as_json=False)
    if told["scores"]:
        tables.show_rows(told["scores"], title="results that came along", as_json=False)
    else:
        tables.say("no results came along")
    tables.say(told["use it"])


def _weights(got: "Got") -> str:
    """Return the hash of the weights, which must be the one that config.json tells."""
    from torch import Tensor

    from carp_eval.checkpoints import reading
    from carp_eval.checkpoints.publishing import hub_config
    from carp_eval.errors import CheckpointError
    from carp_eval.models.model import weights_sha256

    path = got.folder / "model.safetensors"
    state = {name: value for name, value in reading.read(path).items() if isinstance(value, Tensor)}
    weights = weights_sha256(state)
    record = hub_config.read(got.folder)
    if record is not None and record.weights_sha256 != weights:
        raise CheckpointError(
            f"{path} holds other weights than config.json beside it tells ({weights[:12]}, not "
            f"{record.weights_sha256[:12]}): whoever pushed it must push it again"
        )
    return weights


def _scores(got: "Got", weights: str) -> list[dict[str, Any]]:
    from carp_eval.commands import scores

    return [
        {
            "protocol": f"{result.protocol}@{result.variant}",
            "data": result.query_dataset,
            "score": score.name,
            "value": score.value,
            "95 % interval": scores.interval(score),
            "published": "; ".join(scores.published(known) for known in score.published),
            "of": "these weights" if result.weights_sha256 == weights else "other weights",
        }
        for _, result in got.results
        for score in result.scores
    ]
