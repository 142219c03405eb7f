"""`carp push`: publish a model, with what was measured of it, on the Hugging Face Hub."""

import json as jsonlib
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from carp_eval.checkpoints.publishing.hub import Address
    from carp_eval.checkpoints.publishing.pushing import Plan
    from carp_eval.models.model import Model


def push(
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Where to, on the Hub.")],
    model: options.Model = None,
    branch: options.Branch = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private, where it is new.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="BRANCH", help="Push to this branch; made where it is missing."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            metavar="SPDX",
            help="The licence that others get the weights under: apache-2.0, cc-by-nc-4.0 ... A run of `carp train` "
            "needs one; a released model keeps its own.",
        ),
    ] = None,
    i_have_the_right: Annotated[
        bool,
        typer.Option("--i-have-the-right", help="Push a model whose licence is unknown or forbids it."),
    ] = False,
    with_head: Annotated[
        bool, typer.Option("--with-head", help="Push the training's head and prototypes too.")
    ] = False,
    with_bank: Annotated[
        bool,
        typer.Option("--with-bank", help="Push a memory bank too: of the model's own data, its train split."),
    ] = False,
    bank: Annotated[
        Path | None,
        typer.Option("--bank", metavar="BANK", help="Push this bank, as `carp extract` prints it."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="FOLDER",
            help="Where the model's results are. Default: its run's, and ./results.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace files there that no push of carp wrote, or that were edited since."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be pushed and what would change there, and stop."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Publish a model on the Hugging Face Hub, where timm, transformers and carp load it.

    Its weights, a model card with every result on this disk, and the results themselves, in one commit; none if nothing
    changed. Of paths on this machine only the last part is published; images keep the keys that their data set gives
    them. What an earlier push brought and this one does not is removed there; files of others stay. Killed or broken
    off, what was there is as it was, and the same command goes on.
    """
    from carp_eval.checkpoints.opening import open_model
    from carp_eval.checkpoints.publishing import hub, pushing, rights
    from carp_eval.commands import progress, tables

    at = hub.address(repo)
    at = hub.Address(at.repo, revision or at.revision)
    _no_baseline(model)
    if not dry_run:
        # Before work of minutes.
        hub.need_login()
    opened = open_model(model, branch=options.branch_of(branch))
    allowed = rights.licence(opened, licence, i_have_the_right=i_have_the_right)
    bank = bank or (_bank_of(opened) if with_bank else None)
    with _prepared(opened, at.repo, head=with_head, bank=bank, results=results, licence=allowed) as folder:
        if dry_run:
            _show_plan(_planned(folder, at), at, licence=allowed, as_json=json)
            return
        with progress.bars(in_bytes=True) as bars:
            pushed = pushing.push(
                folder,
                at.repo,
                private=private,
                revision=at.revision,
                overwrite=overwrite,
                progress=bars(f"pushing to {at.repo}"),
            )
    spelled = f"hf:{at.repo}" + (f"@{at.revision}" if at.revision else "")
    told = {
        "repository": at.repo,
        "url": pushed.url,
        "commit": pushed.commit,
        "changed": pushed.changed,
        "licence": allowed,
        "files": dict(pushed.changes),
    }
    if json:
        print(jsonlib.dumps(told, indent=2))
        return
    if pushed.changed:
        count = Counter(pushed.changes.values())
        of_each = ", ".join(
            f"{count[change]} {change}" for change in ("new", "changed", "removed") if count[change]
        )
        tables.say(f"pushed to {pushed.url}, commit {pushed.commit[:12]}: {of_each}")
    else:
        tables.say(f"{pushed.url} holds all of it already: no commit was made")
    tables.say(f"Get it anywhere with: carp pull {spelled}")


def _no_baseline(spelling: str | None) -> None:
    from carp_eval.errors import UsageError

    kind = (spelling or "").partition(":")[0]
    if kind in ("random", "pixels") and spelling != kind:
        raise UsageError(
            f"{spelling} is a baseline that anybody can make again: there is nothing to publish. Name a trained model "
            "with -m"
        )


@contextmanager
def _prepared(
    model: "Model", name: str, *, head: bool, bank: Path | None, results: Path | None, licence: str
) -> Generator[Path]:
    """Make the whole folder, for as long as the block lasts."""
    import tempfile

    from carp_eval import files
    from carp_eval.checkpoints.publishing import folder, measured, public
    from carp_eval.commands import tables

    found = measured.of(model, results)
    for problem in found.unreadable:
        tables.warn(f"left out: {problem}")
    if results is not None and found.others:
        tables.warn(
            f"left out: {found.others} results in {results} of other weights than those of {model.name}"
        )
    if not found.results:
        tables.warn(
            f"nothing on this disk was measured of {model.name}, so its card shows no scores: run `carp eval`, or name "
            "their folder with --results"
        )
    # Beside the banks: what lies on one file system need not be copied.
    place = files.make_folder(files.home() / "pushing")
    with tempfile.TemporaryDirectory(dir=place) as work:
        into = Path(work) / "folder"
        folder.prepare(
            model,
            into,
            name=name,
            head=head,
            bank=bank,
            results=found.results,
            pictures=_pictures(model, [public.record(result) for _, result in found.results], Path(work)),
            licence=licence,
        )
        yield into


def _pictures(model: "Model", found: list[Any], work: Path) -> list[Path]:
    from carp_eval.commands import tables
    from carp_eval.report import pictures

    if not pictures.available():
        tables.warn(pictures.HINT)
        return []
    drawn = [pictures.scores(found, work / "scores.png")]
    if model.folder is not None:
        drawn.append(pictures.training(model.folder, work / "training.png"))
    return [path for path in drawn if path is not None]


def _bank_of(model: "Model") -> Path:
    """Choose the bank that goes with a model."""
    from carp_eval.errors import UsageError
    from carp_eval.features import known_banks

    found = known_banks.of_weights(model.weights_sha256)
    own = [bank for bank in found if (bank.record.dataset, bank.record.split) == (model.dataset, "train")]
    chosen = own or found
    if len(chosen) == 1:
        return chosen[0].path
    listed = "\n".join(f"  {bank.path}: {bank.record.dataset}, {bank.record.split}" for bank in chosen)
    raise UsageError(
        f"there are {len(chosen)} banks of {model.name} to choose from: name one with --bank\n{listed}"
        if chosen
        else f"there is no bank of {model.name} on this disk: run `carp extract`, or leave --with-bank out"
    )


def _planned(folder: Path, at: "Address") -> "Plan":
    from carp_eval.checkpoints.publishing import hub, pushing
    from carp_eval.commands import tables
    from carp_eval.errors import HubError

    try:
        return pushing.plan(folder, at)
    except HubError as error:
        why = (
            "the Hub cannot be reached. All else is as it would be" if hub.out_of_reach(error) else f"{error}"
        )
        tables.warn(f"what would change there is not known: {why}")
        return pushing.Plan(False, None, "", pushing.local_files(folder), {})


def _show_plan(plan: "Plan", at: "Address", *, licence: str, as_json: bool) -> None:
    from carp_eval.commands import tables

    def row(path: str) -> Mapping[str, Any]:
        known = plan.local.get(path)
        return {
            "file": path,
            "bytes": known.size if known else None,
            "sha256": known.sha256 if known else None,
            "change": plan.changes.get(path, "?"),
        }

    rows = [row(path) for path in sorted({*plan.local, *plan.changes})]
    if as_json:
        told = {
            "repository": at.repo,
            "revision": at.revision or "main",
            "follows": plan.head,
            "licence": licence,
        }
        print(jsonlib.dumps({**told, "files": rows}, indent=2))
        return
    short = [{**row, "sha256": row["sha256"] and row["sha256"][:12]} for row in rows]
    tables.show_rows(short, title=f"would push to {at.repo}", as_json=False)
    total = sum(known.size for known in plan.local.values())
    there = f"after its commit {plan.head[:12]}" if plan.head else "which would be made"
    tables.say(
        f"{len(plan.local)} files, {total:,} bytes, licence {licence or '(none told)'}, to {at.repo}, {there}. "
        "Nothing was pushed"
    )
