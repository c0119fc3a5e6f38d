"""`opam-ci analyse`: which packages a pull request changes, and how."""

import json
import sys
from typing import Annotated, Any, Final

import typer
from pydantic import BaseModel, ConfigDict

from opam_ci.app.settings import Settings
from opam_ci.cli.output.json_lines import print_line, read_lines
from opam_ci.cli.output.tables import Column, Listing, note, print_listing
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.lookup import base_and_head
from opam_ci.clients import programs
from opam_ci.clients.git.analysis import analyse as analyse_change
from opam_ci.clients.git.analysis import analyse_merge
from opam_ci.clients.git.repository import Repository
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.packed import UNPACKED
from opam_ci.core.submission.admission import ChangeLimits
from opam_ci.core.submission.result import Analysis

_REFUSED_EXIT_CODE: Final = 1
_INVALID_LINE_EXIT_CODE: Final = 2
_INTERNAL_EXIT_CODE: Final = 3
_RESULT_KEYS: Final = frozenset({"packages", "failure", "error"})


class AnalysisLine(BaseModel):
    """A line of the batch: `base` and `head`, or `merge`.

    Attributes:
        base: Branch or commit into which the change is merged.
        head: Branch or commit with the change.
        merge: A merge commit: its first parent is the base and its tree the merged one.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    base: str | None = None
    head: str | None = None
    merge: str | None = None


def analyse(
    repo: opt.Clone,
    pr: opt.Number = None,
    branch: opt.Branch = None,
    base: opt.BaseBranch = "master",
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

    Exit code: 0 analysed, 1 the change is refused as a whole, 2 wrong use or an invalid line of
    a batch, 3 internal error.
    """
    if (pr is not None) + (branch is not None) + (batch is not None) != 1:
        raise UsageError("give one of --pr NUMBER, --branch NAME and --batch FILE")
    programs.require("git")
    limits = Settings().change_limits
    with Repository.open(repo) as repository:
        if batch is not None:
            raise typer.Exit(analyse_lines(batch, repository, limits))
        base_id, head_id = base_and_head(repository, number=pr, branch=branch, base=base)
        result = analyse_change(repository, base_id, head_id, limits)
    if as_json:
        sys.stdout.write(_as_json(result))
    else:
        _print_packages(result)
    raise typer.Exit(_REFUSED_EXIT_CODE if result.failure else 0)


def analyse_lines(file: str, repository: Repository, limits: ChangeLimits) -> int:
    """Prints each line of a batch with its result, as soon as it is analysed.

    Args:
        file: Its path, plain or `.gz`; `-` for standard input.
        repository: The clone that has the commits.
        limits: How much a head may add and modify.

    Returns:
        The exit code: 0, 2 if a line was invalid, 3 if git failed on one.

    Raises:
        UsageError: The file cannot be read.
    """
    exit_code = 0
    for line in read_lines(file, AnalysisLine):
        values: dict[str, Any] = {"error": line.error}
        failed = _INVALID_LINE_EXIT_CODE if line.error else 0
        if line.request is not None:
            try:
                values = _analyse_line(repository, line.request, limits)
            except UsageError as error:
                values, failed = {"error": f"{line.place}: {error}"}, _INVALID_LINE_EXIT_CODE
            except InfrastructureError as error:
                values, failed = {"error": f"{line.place}: {error}"}, _INTERNAL_EXIT_CODE
        print_line(line.result(_RESULT_KEYS, **values))
        exit_code = max(exit_code, failed)
    return exit_code


def _analyse_line(
    repository: Repository, line: AnalysisLine, limits: ChangeLimits
) -> dict[str, Any]:
    if line.base is not None and line.head is not None:
        base, head = repository.resolve(line.base), repository.resolve(line.head)
        result = analyse_change(repository, base, head, limits)
    elif line.merge is not None:
        result = analyse_merge(repository, repository.resolve(line.merge), limits)
    else:
        raise UsageError("a line needs `base` and `head`, or `merge`")
    return result.model_dump(mode="json", include={"packages", "failure"}, context=UNPACKED)


def _as_json(result: Analysis) -> str:
    return json.dumps(result.model_dump(mode="json", context=UNPACKED), indent=2) + "\n"


def _print_packages(result: Analysis) -> None:
    if result.failure is not None:
        note(f"refused: {result.failure}")
        return
    if not result.packages:
        note("no package changes")
        return
    listing = Listing(Column("package", is_key=True), Column("kind"), Column("tests", drop=1))
    for change in result.packages:
        listing.add(
            change.package, change.kind.replace("_", " "), "yes" if change.has_tests else "no"
        )
    print_listing(listing)
