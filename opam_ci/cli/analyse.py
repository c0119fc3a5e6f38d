"""`opam-ci analyse`: which packages a pull request changes, and how."""

import json
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from opam_ci.cli.analyse_batch import analyse_lines
from opam_ci.clients import programs
from opam_ci.clients.git import Repository
from opam_ci.clients.git_analysis import analyse as analyse_change
from opam_ci.core.analysis_result import Analysis, ChangedPackage, ChangeKind
from opam_ci.core.errors import UsageError
from opam_ci.core.packed import FOR_PEOPLE

_REFUSED_EXIT_CODE: Final = 1
_KIND_WIDTH: Final = max(map(len, ChangeKind))


def analyse(
    repo: Annotated[Path, typer.Option(help="Local clone of opam-repository, bare or not.")],
    pr: Annotated[int | None, typer.Option(min=1, help="Number of a pull request.")] = None,
    branch: Annotated[
        str | None, typer.Option(help="A branch or commit of the clone, as the head.")
    ] = None,
    base: Annotated[str, typer.Option(help="The branch or commit into which it goes.")] = "master",
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Analyse the `base` and `head`, or the `merge`, of each JSON line; - for stdin.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; the batch form always does.")
    ] = False,
) -> None:
    """Analyse the merge of a head into its base, on git objects alone.

    Exit code: 0 analysed, 1 the change is refused as a whole, 2 wrong use or a wrong line of
    a batch, 3 internal error.
    """
    if (pr is not None) + (branch is not None) + (batch is not None) != 1:
        raise UsageError("give --pr NUMBER, --branch NAME or --batch FILE: one of them")
    programs.require("git")
    with Repository.open(repo) as repository:
        if batch is not None:
            code = analyse_lines(batch, repository)
            raise typer.Exit(code)
        if pr is not None:
            found = repository.find_pull_request(pr, base)
            base_id, head_id = found.base, found.head
        else:
            base_id, head_id = repository.resolve(base), repository.resolve(branch or "")
        result = analyse_change(repository, base_id, head_id)
    sys.stdout.write(_as_json(result) if as_json else _as_table(result))
    raise typer.Exit(_REFUSED_EXIT_CODE if result.failure else 0)


def _as_json(result: Analysis) -> str:
    return json.dumps(result.model_dump(mode="json", context=FOR_PEOPLE), indent=2) + "\n"


def _as_table(result: Analysis) -> str:
    if result.failure is not None:
        return f"refused: {result.failure}\n"
    if not result.packages:
        return "no package changes\n"
    width = max(len(found.package) for found in result.packages)
    return "".join(f"{_row(found, width).rstrip()}\n" for found in result.packages)


def _row(found: ChangedPackage, width: int) -> str:
    tests = "tests" if found.has_tests else ""
    return f"{found.package:{width}}  {found.kind.replace('_', ' '):{_KIND_WIDTH}}  {tests}"
