"""`opam-ci effect`: which other packages a pull request makes uninstallable."""

import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from opam_ci.cli.author.platforms import chosen_table
from opam_ci.cli.output.tables import Column, Listing, note, print_listing
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.lookup import base_and_head
from opam_ci.cli.selection.operate import print_json
from opam_ci.clients import programs
from opam_ci.clients.git.effect import read_effect
from opam_ci.clients.git.repository import Repository
from opam_ci.core.errors import UsageError
from opam_ci.core.platforms.model import releases
from opam_ci.core.submission.effect import Effect
from opam_ci.core.text.effect import cycle_text, effect_title

_FOUND_EXIT_CODE: Final = 1


def effect(
    repo: opt.Clone,
    pr: opt.Number = None,
    branch: opt.Branch = None,
    base: opt.BaseBranch = "master",
    ocaml: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RELEASE",
            help="With this OCaml, such as 5.4; may be repeated. Default: those of the platforms.",
        ),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """List other packages that the merge of a head makes uninstallable, and dependency cycles.

        opam-ci effect --repo CLONE --pr 30203 --ocaml 5.4

    Takes half a minute, and more for packages that thousands need. In a pipe, tabs separate:
    package, releases of OCaml, those with which no other version of it can be installed.

    Exit code: 0 none, 1 some, 2 wrong use, 3 internal error.
    """
    if (pr is None) == (branch is None):
        raise UsageError("give either --pr NUMBER or --branch NAME")
    programs.require("git")
    wanted = tuple(ocaml or releases(chosen_table(None).platforms))
    with Repository.open(repo) as repository, tempfile.TemporaryDirectory() as name:
        base_id, head_id = base_and_head(repository, number=pr, branch=branch, base=base)
        for commit in (base_id, head_id):
            repository.require_packages(commit)
        merged = repository.merge(base_id, head_id).tree
        if merged is None:
            raise UsageError("the head does not merge into the base")
        before = repository.tree_of(base_id)
        found, _ = read_effect(repository, before, merged, wanted, Path(name) / "descriptions")
    if missing := [each for each in wanted if each not in found.ocaml]:
        note(f"the repository has no ocaml-base-compiler of OCaml {', '.join(missing)}")
    if as_json:
        print_json(found)
    else:
        _print(found)
    raise typer.Exit(_FOUND_EXIT_CODE if found.lost or found.cycles else 0)


def _print(found: Effect) -> None:
    for cycle in found.cycles:
        note(f"dependency cycle: {cycle_text(cycle)}")
    if not found.lost:
        note("no other package becomes uninstallable")
        return
    listing = Listing(
        Column("package", is_key=True), Column("OCaml", wraps=16), Column("last version", drop=1)
    )
    for one in found.lost:
        listing.add(one.package, ", ".join(one.ocaml), ", ".join(one.last_on))
    print_listing(listing)
    note(effect_title(found))
