"""`opam-ci platforms`: lists the platforms that packages are built on."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

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

    In a pipe, tabs separate: platform, opam, pool, runner, besides.

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
    _show(found, as_json=as_json)


def _check(path: Path) -> None:
    try:
        table = load_platforms(path)
    except InvalidPlatformFile as error:
        for problem in error.problems:
            note(problem)
        raise typer.Exit(2) from None
    print(f"{path}: valid; platforms: {len(table.platforms)}, pools: {len(table.pools)}")


def _show(found: Sequence[Platform], *, as_json: bool) -> None:
    if as_json:
        for one in found:
            print(json.dumps({"name": one.name, **one.model_dump(mode="json")}))
        return
    listing = Listing(
        Column("platform", is_key=True),
        Column("opam"),
        Column("pool"),
        Column("runner", drop=1),
        Column("besides", wraps=8),
    )
    for one in found:
        listing.add(one.name, one.opam, one.pool, one.runner.value, ", ".join(extras(one)))
    print_listing(listing)
