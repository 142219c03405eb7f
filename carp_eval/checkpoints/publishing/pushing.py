"""Pushing a folder to the Hub: one commit or none, and never over what someone else wrote."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from carp_eval.checkpoints.publishing import hub, listing, manifest
from carp_eval.checkpoints.publishing.hub import Address
from carp_eval.checkpoints.publishing.listing import Hashes, Kept
from carp_eval.checkpoints.publishing.sending import CountedFile, Progress, quietly
from carp_eval.errors import HubError, UsageError

Change = Literal["new", "changed", "same", "removed", "another's"]


@dataclass(frozen=True)
class Pushed:
    """A push that went through.

    Attributes:
        url: Where people see it.
        commit: The revision that holds the folder now.
        changed: Whether a commit was made; without, all was there already.
        changes: What became of each file, by path.
    """

    url: str
    commit: str
    changed: bool
    changes: Mapping[str, Change]


@dataclass(frozen=True)
class Plan:
    """What a push would do.

    Attributes:
        exists: Whether the repository is there.
        private: Whether only those with rights see it; None where it is not there.
        head: The commit that the push would follow; empty where there is none.
        local: The files to push, by path.
        changes: What would become of each file, by path: of ours, and of those an earlier push wrote.
    """

    exists: bool
    private: bool | None
    head: str
    local: Mapping[str, Hashes]
    changes: Mapping[str, Change]

    def of(self, *kinds: Change) -> list[str]:
        """List the paths of which one of these would come."""
        return [path for path, change in self.changes.items() if change in kinds]


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    endpoint: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Pushed:
    """Make a revision on the Hub hold what a folder holds, by one commit.

    Repository and branch are made where they are missing. A file that is there with the same content is not sent, and
    without any change no commit is made. A file that an earlier push wrote and that the folder has no more is removed;
    files of others are left alone. Stopped at any time, the revision is as it was, and the same call goes on: large
    files that arrived are not sent again.

    Args:
        folder: What to push; `carp-files.json`, which says what was pushed, is written into it.
        repo_id: `USER/NAME`.
        private: Whether a repository that must be made is private; one that is there and is not is an error.
        revision: The branch; None is the main one.
        endpoint: The Hub's address; None is the usual one.
        overwrite: Whether to replace files that others wrote or changed.
        progress: Is told the bytes sent, and of how many.

    Raises:
        UsageError: If the folder or a name cannot be pushed.
        HubError: If the Hub cannot be reached or refuses, someone committed at the same time, or a file there is
            another's.
        StorageError: If the folder cannot be written to.
    """
    at = hub.address(repo_id)
    at = Address(at.repo, revision or at.revision)
    api = hub.client(endpoint)
    local = local_files(folder)
    hub.need_login()
    with hub.told("push to", at):
        _make(api, at, private=private)
    planned = _compare(api, at, local)
    if not planned.head:
        raise HubError(f"{at.repo} was made a moment ago and cannot be seen yet: run the same command again")
    strangers = planned.of("another's")
    if strangers and not overwrite:
        raise HubError(
            f"{at.repo} has {', '.join(strangers[:5])} with content that no push of yours wrote: somebody changed it "
            "there, or it is another model. Take over what is wanted of it, then push with --overwrite, or push to "
            "another name"
        )
    url = f"{api.endpoint}/{at.repo}" + (f"/tree/{quote(at.revision)}" if at.revision else "")
    if not planned.of("new", "changed", "removed", "another's"):
        return Pushed(url, planned.head, changed=False, changes=planned.changes)
    with hub.told("push to", at):
        commit = _commit(api, at, folder, planned, progress=progress)
        _check_arrived(api, at, commit, planned.local)
    return Pushed(url, commit, changed=True, changes=planned.changes)


def plan(folder: Path, at: Address, *, endpoint: str | None = None) -> Plan:
    """Compare a folder with a revision on the Hub, and change nothing there.

    Args:
        folder: What to push; `carp-files.json` is written into it.
        at: Where to.
        endpoint: The Hub's address; None is the usual one.

    Raises:
        UsageError: If the folder holds what cannot be pushed.
        HubError: If the Hub cannot be reached or refuses, or holds a damaged `carp-files.json`.
        StorageError: If the folder cannot be written to.
    """
    return _compare(hub.client(endpoint), at, local_files(folder))


def _compare(api: HfApi, at: Address, local: Mapping[str, Hashes]) -> Plan:
    with hub.told("look at", at):
        private = hub.patiently(lambda: _is_private(api, at.repo))
        head = "" if private is None else hub.patiently(lambda: _head(api, at)) or ""
        there = hub.patiently(lambda: listing.tree(api, at.repo, head)) if head else {}
        before = _before(api, at.repo, head) if manifest.NAME in there else {}
    changes: dict[str, Change] = {
        path: _change(path, known, there, before) for path, known in sorted(local.items())
    }
    for path, known in sorted(before.items()):
        # What someone changed since is theirs, and stays.
        if path not in local and path in there and known.same(there[path]):
            changes[path] = "removed"
    return Plan(private is not None, private, head, local, changes)


def local_files(folder: Path) -> dict[str, Hashes]:
    """List a folder's files by path, `carp-files.json` among them, which is written into it.

    Raises:
        UsageError: If it holds a symbolic link, or nothing.
        StorageError: If it cannot be written to.
    """
    found: dict[str, Hashes] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link: only files are pushed; put the file itself there")
        if path.is_file() and name != manifest.NAME:
            found[name] = listing.hashes(path)
    if not found:
        raise UsageError(f"there is nothing to push in {folder}")
    found[manifest.NAME] = listing.hashes(manifest.write(folder, found))
    return found


def _change(path: str, known: Hashes, there: Mapping[str, Kept], before: Mapping[str, Hashes]) -> Change:
    if path not in there:
        return "new"
    if known.same(there[path]):
        return "same"
    if path == manifest.NAME or (path in before and before[path].same(there[path])):
        return "changed"
    return "another's"


def _make(api: HfApi, at: Address, *, private: bool) -> None:
    """Make repository and branch, where they are missing."""
    is_private = hub.patiently(lambda: _is_private(api, at.repo))
    if is_private is None:
        hub.patiently(lambda: api.create_repo(at.repo, private=private or None, exist_ok=True))
    elif private and not is_private:
        raise HubError(
            f"{at.repo} is there and is public: make it private in its settings on the Hub, or leave --private out"
        )
    if at.revision and hub.patiently(lambda: _head(api, at)) is None:
        branch = at.revision
        hub.patiently(lambda: api.create_branch(at.repo, branch=branch, exist_ok=True))


def _is_private(api: HfApi, repo: str) -> bool | None:
    """Return whether a repository is private; None where there is none that the token may see."""
    try:
        return bool(api.model_info(repo).private)
    except hub.HfHubHTTPError as error:
        missing = error.response.headers.get("x-error-code") == "RepoNotFound"
        if missing or error.response.status_code == 404:
            return None
        raise


def _head(api: HfApi, at: Address) -> str | None:
    """Return the commit of a revision; None where the repository has no such revision."""
    try:
        return api.model_info(at.repo, revision=at.revision).sha
    except hub.HfHubHTTPError as error:
        if error.response.headers.get("x-error-code") == "RevisionNotFound":
            return None
        raise


def _before(api: HfApi, repo: str, head: str) -> dict[str, Hashes]:
    """Read what the last push wrote."""
    with tempfile.TemporaryDirectory(prefix="carp-") as place, quietly():
        path = hub.patiently(lambda: api.hf_hub_download(repo, manifest.NAME, revision=head, local_dir=place))
        return manifest.read(Path(path))


def _commit(api: HfApi, at: Address, folder: Path, planned: Plan, *, progress: Progress | None) -> str:
    """Send what is not there yet and commit it; return the commit."""
    sent = {path: CountedFile(folder / path) for path in planned.of("new", "changed", "another's")}
    additions = [CommitOperationAdd(path, cast(BinaryIO, file)) for path, file in sent.items()]
    # Of files with the same content the client sends one as often as there are, all at once: its reads would mix.
    different = {planned.local[addition.path_in_repo].sha256: addition for addition in additions}
    operations = [*additions, *(CommitOperationDelete(path) for path in planned.of("removed"))]
    total = sum(planned.local[path].size for path in sent)
    for file in sent.values():
        file.watch(_teller(list(sent.values()), total, progress))

    def once() -> str:
        try:
            made = api.create_commit(
                at.repo,
                operations,
                commit_message=f"Push {at.repo.partition('/')[2]} with carp-eval",
                revision=at.revision,
                parent_commit=planned.head,
            )
        except hub.FAILURES as error:
            # The answer may have been lost and not the commit; asking again would then find a stale parent.
            if (arrived := _arrived(api, at, planned, error)) is None:
                raise
            return arrived
        return made.oid

    def send() -> None:
        for file in sent.values():
            # Where a connection broke, the client left it in the middle.
            file.seek(0)
        api.preupload_lfs_files(at.repo, list(different.values()), revision=at.revision)

    with quietly():
        hub.patiently(send)
        commit = hub.patiently(once)
    if progress is not None:
        progress(total, total)
    return commit


def _teller(sent: list[CountedFile], total: int, progress: Progress | None) -> Callable[[], None]:
    def tell() -> None:
        if progress is not None:
            progress(min(sum(file.furthest for file in sent), total), total)

    return tell


def _arrived(api: HfApi, at: Address, planned: Plan, error: BaseException) -> str | None:
    """Return the commit that made the revision what it should be, if one did in spite of an error."""
    if hub.status_of(error) in (400, 401, 403, 404, 413, 422, 429):
        return None
    try:
        head = _head(api, at)
        if head is None or head == planned.head:
            return None
        there = listing.tree(api, at.repo, head)
    except hub.FAILURES:
        return None
    whole = all(path in there and known.same(there[path]) for path, known in planned.local.items())
    return head if whole and not any(path in there for path in planned.of("removed")) else None


def _check_arrived(api: HfApi, at: Address, commit: str, local: Mapping[str, Hashes]) -> None:
    """Make sure that the Hub keeps what was pushed: a `.gitignore` there leaves files out without a word."""
    there = hub.patiently(lambda: listing.tree(api, at.repo, commit))
    lost = [path for path, known in local.items() if path not in there or not known.same(there[path])]
    if lost:
        raise HubError(
            f"{at.repo} took the commit {commit[:12]}, but not {', '.join(lost[:5])}: does it have a .gitignore?"
        )
