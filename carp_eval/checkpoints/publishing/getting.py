"""Getting a model from the Hub: one revision, each file checked against its hash, nothing of it run.

`snapshot` fetches the files a model is opened from, `-m hf:USER/NAME[@REVISION]`; `get` fetches all that `carp push`
writes, for `carp pull hf:USER/NAME`. Files lie in `$CARP_HOME/hub/USER--NAME/<commit>/`, as plain files under the
names they have in the repository, so the folder of a commit never changes. Where the Hub cannot be reached, what was
got before is taken from there.

    snap = snapshot("hf:USER/NAME@main")
    snap.folder / "model.safetensors", snap.folder / "config.json", snap.commit
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.utils import build_hf_headers

from carp_eval import files, results
from carp_eval.checkpoints.downloads import transfer
from carp_eval.checkpoints.downloads.asking import Request
from carp_eval.checkpoints.publishing import hub, listing, manifest
from carp_eval.checkpoints.publishing.hub import Address
from carp_eval.checkpoints.publishing.listing import Kept
from carp_eval.checkpoints.publishing.sending import Progress
from carp_eval.errors import CheckpointError, HubError, UsageError
from carp_eval.results import Result

MODEL = ("config.json", "model.safetensors")
# What `folder.prepare` and `carp push` write. Whatever else a repository holds is left there.
OURS = (
    *map(re.escape, (*MODEL, "README.md", "recipe.json", "head.safetensors", manifest.NAME)),
    r"results/[\w.@+=,-]+\.(json|parquet)",
    r"probe/[\w.@+=,-]+\.safetensors",
    r"bank/[\w-]+\.(json|safetensors)",
    r"pictures/[\w.@+=,-]+\.(png|svg|jpg)",
)


@dataclass(frozen=True)
class Snapshot:
    """Files of one revision, on this disk.

    Attributes:
        repo: `USER/NAME`.
        revision: As it was asked for; `main` where none was.
        commit: What that was when the Hub was last asked.
        folder: Where the files lie.
        files: Their names, as in the repository.
        left: Names of what the repository holds beside them.
    """

    repo: str
    revision: str
    commit: str
    folder: Path
    files: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True)
class Got:
    """All that came along with a model.

    Attributes:
        snapshot: The files.
        folder: Where they are for the user: the snapshot's folder, or the one that was asked for.
        results: The records of its scores, and where each lies.
        bank: The folder of a memory bank, not yet looked at by anybody; None where none came.
    """

    snapshot: Snapshot
    folder: Path
    results: tuple[tuple[Path, Result], ...]
    bank: Path | None


def snapshot(
    spelling: str,
    *,
    only: tuple[str, ...] = tuple(map(re.escape, MODEL)),
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Snapshot:
    """Fetch files of one revision, those that are not here yet, and check each against the Hub's hash.

    Args:
        spelling: `hf:USER/NAME` or `USER/NAME`, `@` and a branch, tag or commit behind it.
        only: The files, as regular expressions of the whole name; those that are not there are not missed.
        endpoint: The Hub's address; None is the usual one.
        progress: Is told the bytes that came, and of how many.

    Raises:
        UsageError: If it is spelled otherwise.
        HubError: If the Hub cannot be reached or refuses, or holds names that lead out of the folder.
        CheckpointError: If a file does not come whole.
        StorageError: If the disk refuses.
    """
    at = hub.address(spelling)
    place = files.home() / "hub" / at.repo.replace("/", "--")
    api = hub.client(endpoint)
    commit = _commit(api, at, place)
    with files.locked(place / commit):
        there = _listing(api, at, commit, place)
        names = [name for name in there if any(re.fullmatch(pattern, name) for pattern in only)]
        _fetch(api, at, commit, {name: there[name] for name in names}, place / commit, progress)
    left = tuple(name for name in there if name not in names and name != ".gitattributes")
    return Snapshot(at.repo, at.revision or "main", commit, place / commit, tuple(names), left)


def get(
    spelling: str,
    *,
    to: Path | None = None,
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Got:
    """Fetch a model and what was pushed with it: results, heads, bank, pictures.

    Args:
        spelling: As in `snapshot`.
        to: A folder to copy it to; None leaves it where `-m hf:USER/NAME` finds it.
        endpoint: The Hub's address; None is the usual one.
        progress: Is told the bytes that came, and of how many.

    Raises:
        UsageError: If it is spelled otherwise, or `to` holds other files of these names.
        HubError: If the Hub cannot be reached or refuses, or the repository holds no such model.
        CheckpointError: If a file does not come whole.
        CardError: If a record of results is damaged.
        DataError: If it is of another version.
        StorageError: If the disk refuses.
    """
    snap = snapshot(spelling, only=OURS, endpoint=endpoint, progress=progress)
    missing = [name for name in MODEL if name not in snap.files]
    if missing:
        raise HubError(
            f"{snap.repo} is no model that carp pushed: it has no {' and no '.join(missing)}, but "
            f"{', '.join((*snap.files, *snap.left)[:8]) or 'nothing'}. -m hf:{snap.repo} opens others' models, where "
            "it can, without a pull"
        )
    folder = snap.folder if to is None else _copy(snap, to)
    records = [folder / name for name in snap.files if re.fullmatch(r"results/.*\.json", name)]
    bank = folder / "bank" if "bank/bank.json" in snap.files else None
    return Got(snap, folder, tuple((path, results.load(path)) for path in records), bank)


def _commit(api: HfApi, at: Address, place: Path) -> str:
    """Return the commit of a revision: as the Hub says, or, where it is out of reach, as it said last."""
    revision = at.revision or "main"
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    note = place / "revisions" / quote(revision, safe="")
    known = note.read_text(encoding="utf-8") if note.is_file() else ""

    def ask() -> str | None:
        return api.model_info(at.repo, revision=at.revision).sha

    with hub.told("get", at):
        try:
            commit = ask() if known else hub.patiently(ask)
        except hub.FAILURES as error:
            if re.fullmatch("[0-9a-f]{40}", known) and hub.out_of_reach(error):
                return known
            raise
    if not re.fullmatch("[0-9a-f]{40}", commit or ""):
        raise HubError(f"the Hub names no commit of {at.repo} at {revision!r}, but {commit!r}")
    assert commit is not None
    files.write_text(note, commit)
    return commit


def _listing(api: HfApi, at: Address, commit: str, place: Path) -> dict[str, Kept]:
    """Return what a commit holds; what the Hub said of it once is kept, since it cannot change."""
    note = place / f"{commit}.json"
    if note.is_file():
        try:
            kept = json.loads(note.read_text(encoding="utf-8"))
            return {name: Kept(*told) for name, told in kept.items()}
        except (ValueError, TypeError, AttributeError):
            note.unlink()
    with hub.told("get", at):
        there = hub.patiently(lambda: listing.tree(api, at.repo, commit))
    told = {name: [kept.size, kept.oid, kept.sha256] for name, kept in there.items()}
    files.write_text(note, json.dumps(told))
    return there


def _fetch(
    api: HfApi,
    at: Address,
    commit: str,
    wanted: Mapping[str, Kept],
    folder: Path,
    progress: Progress | None,
) -> None:
    total, before = sum(kept.size for kept in wanted.values()), 0
    for name, kept in wanted.items():
        path = folder / name
        if not (path.is_file() and listing.hashes(path).same(kept)):
            url = hf_hub_url(at.repo, name, revision=commit, endpoint=api.endpoint)
            request = Request(url, headers=build_hf_headers(library_name="carp-eval"))
            part = folder / ".parts" / quote(name, safe="")

            def tell(done: int, _total: int, *, start: int = before) -> None:
                if progress is not None:
                    progress(start + done, total)

            try:
                transfer.download(request, part, size=kept.size, hash_is_known=True, progress=tell)
            except CheckpointError as error:
                raise CheckpointError(f"{name} of {at.repo} did not come: {error}") from error
            if not listing.hashes(part).same(kept):
                transfer.forget(part)
                raise CheckpointError(
                    f"{name} of {at.repo} came damaged: its hash is not the one the Hub tells. It was thrown away; run "
                    "the same command again"
                )
            files.make_folder(path.parent)
            with files.storage_errors(path):
                part.replace(path)
            transfer.forget(part)
        before += kept.size
        if progress is not None:
            progress(before, total)


def _copy(snap: Snapshot, to: Path) -> Path:
    """Copy a snapshot, beside whatever else the folder holds."""
    for name in snap.files:
        path = to / name
        if path.exists() and (not path.is_file() or files.sha256(path) != files.sha256(snap.folder / name)):
            raise UsageError(f"{path} is there already, and is another: name an empty folder")
    for name in snap.files:
        with files.replacing(to / name) as beside:
            shutil.copyfile(snap.folder / name, beside)
    return to
