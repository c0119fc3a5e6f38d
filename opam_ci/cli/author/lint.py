"""`opam-ci lint`: lint packages before they are submitted."""

import asyncio
import json
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from opam_ci.app.settings import Settings
from opam_ci.cli.developer.lint_batch import lint_opam_texts, lint_packages_of
from opam_ci.cli.output.tables import note, output, print_text
from opam_ci.clients import programs
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.tree import GitTree
from opam_ci.clients.git.work_tree import WorkTree
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.run import PackageTree, lint_packages
from opam_ci.core.errors import UsageError
from opam_ci.core.lint.checks import DEFAULT_KINDS
from opam_ci.core.lint.finding import CheckKind, LintReport, LintRequest
from opam_ci.core.lint.opam_codes import OPAM_VERSION
from opam_ci.core.lint.render import human_lines, machine_lines, summary_line
from opam_ci.worker import make_lint

FOUND_EXIT_CODE: Final = 1
USAGE_EXIT_CODE: Final = 2
_PACKAGE_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+")
_READABLE_WIDTH: Final = 96
"""Characters in a line at a terminal, at most: longer ones are hard to read."""


def lint(
    packages: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PACKAGE",
            help="NAME.VERSION, NAME for all its versions, or the path of either.",
        ),
    ] = None,
    repo: Annotated[
        Path, typer.Option(help="Clone of opam-repository: the files of its work tree are linted.")
    ] = Path(),
    rev: Annotated[
        str | None,
        typer.Option(help="Lint this branch or commit of the clone, not its work tree."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Lint all packages.")] = False,
    checks: Annotated[
        str,
        typer.Option(help="Families of checks, with commas: opam, publication, archive."),
    ] = ",".join(DEFAULT_KINDS),
    new: Annotated[
        bool | None,
        typer.Option(
            "--new/--changed",
            help="Whether the packages are the first version under their name."
            " Default: those that have no other version in the repository.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    machine: Annotated[
        bool, typer.Option("--machine-readable", help="Print one line a message.")
    ] = False,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Lint the `package` (and `new`) of each JSON line; - for stdin."
        ),
    ] = None,
    opam_batch: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Lint the `opam` text of each JSON line, without a repository; - for stdin.",
        ),
    ] = None,
    check_upstream: Annotated[
        bool, typer.Option(help="Download archives and compare their checksums.")
    ] = False,
) -> None:
    """Lint packages: opam's own lint and the rules of opam-repository.

    Exit code: 0 nothing found, 1 something found, 2 wrong use, 3 internal error. The batch
    forms exit with 0 if every line was linted, else 2.
    """
    kinds = parse_kinds(checks)
    chosen = (bool(packages), every, bool(batch), bool(opam_batch))
    if sum(chosen) > 1:
        raise UsageError("give one of packages, --all, --batch and --opam-batch")
    if not any(chosen):
        raise UsageError("name the packages to lint, such as cppo.1.8.0, or give --all")
    if rev:
        programs.require("git")
    opam = make_lint(Settings(), note, check_upstream=check_upstream)
    asyncio.run(opam.program.require())
    if opam_batch is not None:
        complete = asyncio.run(lint_opam_texts(opam_batch, kinds=kinds, opam=opam))
        raise typer.Exit(0 if complete else USAGE_EXIT_CODE)
    with _open_tree(repo, rev) as tree:
        if batch is not None:
            complete = asyncio.run(lint_packages_of(batch, tree, kinds=kinds, opam=opam, new=new))
            raise typer.Exit(0 if complete else USAGE_EXIT_CODE)
        report = asyncio.run(
            _lint(tree, packages or [], every=every, new=new, kinds=kinds, opam=opam)
        )
    _print_report(report, as_json=as_json, machine=machine)
    if report.missing:
        raise typer.Exit(USAGE_EXIT_CODE)
    raise typer.Exit(FOUND_EXIT_CODE if report.findings else 0)


def parse_kinds(text: str) -> frozenset[CheckKind]:
    """Parses families of checks, such as `opam,publication`.

    Raises:
        UsageError: There is no such family, or none at all.
    """
    kinds = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        try:
            kinds.add(CheckKind(word))
        except ValueError:
            known = ", ".join(CheckKind)
            raise UsageError(f"--checks: no such family {word!r}; there are: {known}") from None
    if not kinds:
        raise UsageError(f"--checks needs one of {', '.join(CheckKind)}")
    return frozenset(kinds)


@contextmanager
def _open_tree(repo: Path, rev: str | None) -> Iterator[PackageTree]:
    if rev is None:
        yield WorkTree(repo)
        return
    with Repository.open(repo) as repository:
        commit = repository.resolve(rev)
        repository.require_packages(commit)
        yield GitTree(repository, commit)


async def _lint(
    tree: PackageTree,
    arguments: Sequence[str],
    *,
    every: bool,
    new: bool | None,
    kinds: Collection[CheckKind],
    opam: OpamLint,
) -> LintReport:
    names = sorted(await tree.names()) if every else [_package(argument) for argument in arguments]
    bare = [name for name in names if "." not in name]
    versions = await tree.versions(bare)
    wanted: list[str] = []
    for name in names:
        # A name without versions stays as it is and is reported missing.
        wanted += sorted(versions.get(name, ())) or [name]
    requests = [LintRequest(package=package, new=new) for package in dict.fromkeys(wanted)]
    return await lint_packages(tree, requests, kinds=kinds, opam=opam)


def _package(argument: str) -> str:
    """Returns the package of an argument: a name, or a path as shells complete it."""
    parts = [part for part in Path(argument).parts if part != "opam"]
    name = parts[-1] if parts else ""
    if not _PACKAGE_NAME.fullmatch(name.partition(".")[0]):
        raise UsageError(f"{argument!r} is not a package: write NAME.VERSION, such as cppo.1.8.0")
    return name


def _print_report(report: LintReport, *, as_json: bool, machine: bool) -> None:
    """Prints a report to standard output, and missing packages to standard error."""
    if as_json:
        lines = [json.dumps(_as_json(report), indent=2)]
    elif machine:
        lines = list(machine_lines(report))
    else:
        lines = list(human_lines(report, width=_width()))
    for line in lines:
        print_text(line)
    if (as_json or machine) and report.missing:
        note(f"no such package in this repository: {', '.join(report.missing)}")


def _width() -> int:
    width = output().width
    return min(width, _READABLE_WIDTH) if sys.stdout.isatty() else width


def _as_json(report: LintReport) -> dict[str, object]:
    return {
        "summary": summary_line(report),
        "opam": OPAM_VERSION,
        "checked": list(report.checked),
        "missing": list(report.missing),
        "findings": [
            {**finding.model_dump(mode="json"), "machine_message": finding.machine_message}
            for finding in report.findings
        ],
    }
