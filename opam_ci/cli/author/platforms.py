"""`opam-ci platforms`: lists the platforms that packages are built on."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from opam_ci.app.runners import unserved
from opam_ci.app.settings import Settings
from opam_ci.cli.output.tables import Column, Listing, note, print_listing
from opam_ci.cli.selection import command_options as opt
from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.errors import UsageError
from opam_ci.core.platforms.file import InvalidPlatformFile
from opam_ci.core.platforms.model import Platform, PlatformTable
from opam_ci.core.platforms.page import extras, page
from opam_ci.core.platforms.select import filtered, named


def chosen_table(file: Path | None) -> PlatformTable:
    """Returns the platforms of the given file, else of the settings', else the default ones.

    Raises:
        UsageError: The file is invalid.
    """
    return load_platforms(file if file is not None else Settings().platforms)


def platforms(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Only these: names or globs.")
    ] = None,
    file: opt.PlatformFile = None,
    pool: Annotated[
        list[str] | None, typer.Option(help="Only of this pool, or glob; may be repeated.")
    ] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="Only this architecture, or glob; may be repeated.")
    ] = None,
    distribution: Annotated[
        list[str] | None, typer.Option(help="Only this distribution, or glob; may be repeated.")
    ] = None,
    as_json: opt.Json = False,
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Print the page docs/platforms.md, of the whole file."),
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Validate a file, and print its errors, one a line."),
    ] = None,
) -> None:
    """Lists the platforms that packages are built on.

        opam-ci platforms 'debian-13-*' --arch arm64

    `here` says whether this machine can serve it; if not, why is below, or in a pipe in its
    place. In a pipe, tabs separate: platform, here, opam, pool, runner, besides.

    Exits 2 if nothing matches, or if the file has an error.
    """
    narrowed = bool(names or pool or arch or distribution)
    if (markdown or check is not None) and (narrowed or as_json or (markdown and check)):
        raise UsageError("--markdown and --check are about a whole file: give no other option")
    if check is not None:
        _check(check)
        return
    table = chosen_table(file)
    if markdown:
        sys.stdout.write(page(table))
        return
    found = named(table.platforms, names) if names else table.platforms
    found = filtered(found, pools=pool or (), arches=arch or (), distributions=distribution or ())
    if not found:
        raise UsageError("no platform matches; `opam-ci platforms` lists all")
    lacks = asyncio.run(unserved(Settings(), table.pools))
    _show(found, lacks, as_json=as_json)


def _check(path: Path) -> None:
    try:
        table = load_platforms(path)
    except InvalidPlatformFile as error:
        for problem in error.problems:
            note(problem)
        raise typer.Exit(2) from None
    print(f"{path}: valid; platforms: {len(table.platforms)}, pools: {len(table.pools)}")


def _show(found: Sequence[Platform], lacks: Mapping[str, str], *, as_json: bool) -> None:
    """Prints platforms.

    Args:
        found: The platforms.
        lacks: Why this machine cannot serve pools.
        as_json: Whether as JSON.
    """
    # Why a platform in several pools is not served is said of the first, which is preferred.
    why = {
        one.name: None if any(each.pool not in lacks for each in one.choices) else lacks[one.pool]
        for one in found
    }
    if as_json:
        for one in found:
            about = {"name": one.name, "here": why[one.name] is None, "why": why[one.name]}
            print(json.dumps(about | one.model_dump(mode="json")))
        return
    listing = Listing(
        Column("platform", is_key=True),
        Column("here"),
        Column("opam", drop=3),
        Column("pool", wraps=16),
        Column("runner", wraps=8, drop=1),
        Column("besides", wraps=8, drop=2),
    )
    at_terminal = sys.stdout.isatty()
    for one in found:
        reason = why[one.name]
        listing.add(
            one.name,
            "yes" if reason is None else "no" if at_terminal else reason,
            one.opam,
            ", ".join(each.pool for each in one.choices),
            ", ".join(each.runner.value for each in one.choices),
            ", ".join(extras(one)),
        )
    print_listing(listing)
    if at_terminal:
        for pool in dict.fromkeys(one.pool for one in found if why[one.name] is not None):
            note(f"{pool}: {lacks[pool]}")
