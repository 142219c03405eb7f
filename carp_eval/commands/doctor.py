"""`carp doctor`: what this installation has, and what is wrong with it."""

import typer

from carp_eval.commands import options


def doctor(data_root: options.DataRoot = None, json: options.Json = False) -> None:
    """Say what this installation has (torch, CUDA, faiss, data, cache) and what is wrong with it."""
    from carp_eval import diagnosis
    from carp_eval.commands import tables

    findings = diagnosis.examine(data_root=data_root)
    rows = [
        {"part": f.part, "found": f.found, "": "ok" if not f.problem else f"problem: {f.problem}"}
        for f in findings
    ]
    tables.show_rows(rows, title="carp doctor", as_json=json)
    if any(finding.problem for finding in findings):
        raise typer.Exit(2)
