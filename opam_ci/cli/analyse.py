"""`opam-ci analyse`: which packages a pull request changes, and how."""

import json
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from opam_ci.cli.analyse_batch import analyse_lines
from opam_ci.cli.tables import Column, Listing, note, print_listing
from opam_ci.clients import programs
from opam_ci.clients.git import Repository
from opam_ci.clients.git_analysis import analyse as analyse_change
from opam_ci.core.analysis_result import Analysis
from opam_ci.core.errors import UsageError
from opam_ci.core.packed import FOR_PEOPLE

_REFUSED_EXIT_CODE: Final = 1


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

    In a pipe, tabs separate: package, kind, tests.

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
    if as_json:
        sys.stdout.write(_as_json(result))
    else:
        _print_packages(result)
    raise typer.Exit(_REFUSED_EXIT_CODE if result.failure else 0)


def _as_json(result: Analysis) -> str:
    return json.dumps(result.model_dump(mode="json", context=FOR_PEOPLE), indent=2) + "\n"


def _print_packages(result: Analysis) -> None:
    if result.failure is not None:
        note(f"refused: {result.failure}")
        return
    if not result.packages:
        note("no package changes")
        return
    listing = Listing(Column("package", is_key=True), Column("kind"), Column("tests", drop=1))
    for found in result.packages:
        listing.add(found.package, found.kind.replace("_", " "), "yes" if found.has_tests else "no")
    print_listing(listing)
