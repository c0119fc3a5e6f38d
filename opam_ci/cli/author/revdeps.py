"""`opam-ci revdeps`: the reverse dependencies that would be built with a package."""

import asyncio
from pathlib import Path

import typer

from opam_ci.app.settings import Settings
from opam_ci.cli.author.build import (
    Base,
    OneJob,
    OnlyMirrored,
    OnPlatform,
    Package,
    Repo,
    in_work_tree,
    one_platform,
    opened,
)
from opam_ci.cli.author.check import EXIT_CODES
from opam_ci.cli.output.render import reasons
from opam_ci.cli.output.tables import Column, Listing, note
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.operate import print_items
from opam_ci.clients import programs
from opam_ci.core.jobs.build import RevdepList
from opam_ci.core.jobs.job import Job, JobKind


def revdeps(
    package: Package,
    repo: Repo = Path(),
    platform: OnPlatform = None,
    platforms: opt.PlatformFile = None,
    base: Base = None,
    mirror: opt.Mirror = None,
    only_mirrored: OnlyMirrored = False,
    as_json: opt.Json = False,
) -> None:
    """Lists the reverse dependencies that are built with a package, and whether they are tested.

    They are those that a platform with reverse dependencies builds for a pull request with the
    work tree. In a pipe, tabs separate: package, tests, built. Exits as `opam-ci build` does.

    \b
        opam-ci revdeps cppo
        opam-ci revdeps cppo.1.8.0 --json
    """  # noqa: D301 - \b, the character, makes click keep the lines as they are
    programs.require("git")
    where = one_platform(platforms, platform)
    with opened(repo, base) as (repository, taken, base_id):
        wanted = in_work_tree(repository, taken.commit, package)
        one = OneJob(
            settings=Settings(),
            taken=taken,
            base=base_id,
            job=Job(platform=where.name, package=wanted, kind=JobKind.LIST_REVDEPS),
            platform=where,
            mirrors=tuple(mirror or ()),
            only_mirrored=only_mirrored,
        )
        summary, listing, _ = asyncio.run(one.run(lambda _: None))
    if listing is None:
        for line in (*reasons(summary.jobs), *summary.notices):
            note(line)
    else:
        _print(listing, wanted, where.name, as_json=as_json)
    raise typer.Exit(EXIT_CODES[summary.state])


def _print(found: RevdepList, package: str, platform: str, *, as_json: bool) -> None:
    rows = [(each.package, each.has_tests, True) for each in found.revdeps]
    rows += [(name, False, False) for name in found.flagged]
    listing = Listing(Column("reverse dependency", is_key=True), Column("tests"), Column("built"))
    for name, has_tests, built in sorted(rows):
        listing.add(
            name,
            "yes" if has_tests else "",
            "yes" if built else "no: flagged avoid-version or deprecated",
        )
    items = [
        {"package": name, "has_tests": has_tests, "built": built}
        for name, has_tests, built in sorted(rows)
    ]
    none = f"no reverse dependency of {package} can be installed with it on {platform}"
    print_items(items, listing, as_json=as_json, none=none)
    if rows:
        note(f"{platform}: {found.summary}")
