"""`opam-ci health`: how the packages of the base do by themselves, by the newest nightly check."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer

from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.settings import Settings
from opam_ci.cli.output.tables import Column, Listing, note
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.lookup import find_testing, target_of
from opam_ci.cli.selection.operate import ago, print_items
from opam_ci.cli.selection.server import opened_listings
from opam_ci.clients.index import JobFilter, Listings, RevisionFilter, all_items
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.glob import is_glob, matches, matches_package
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.records import JobRecord, RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.text.status import WORST_FIRST, verdict, why


def health(
    branch: Annotated[
        str | None,
        typer.Argument(
            metavar="OWNER/REPO:BRANCH",
            help="The base; default: that of OPAM_CI_GITHUB_REPOSITORY and …_BRANCH.",
        ),
    ] = None,
    package: Annotated[
        str, typer.Option(help="Only packages of this glob, such as 'ppx_*'.")
    ] = "*",
    platform: Annotated[str, typer.Option(help="Only platforms of this glob.")] = "*",
    all_rows: Annotated[
        bool, typer.Option("--all", help="Show what passed and what was skipped, too.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Shows how popular packages do on the base itself, package by platform, as of last night.

    The check is made each night once OPAM_CI_GITHUB_HEALTH_PACKAGES says for how many packages.
    What fails here fails in pull requests, too, and turns none of them red. In a pipe, tabs
    separate: package, platform, build, test, why.

    \b
        opam-ci health
        opam-ci health ocaml/opam-repository:master --package 'ppx_*' --all
    """  # noqa: D301 - \b, the character, makes click keep the lines as they are
    for glob in (package, platform):
        if not is_glob(glob):
            raise UsageError(f"invalid glob {glob[:100]!r}: use characters of names, * and ?")
    now = datetime.now(UTC)
    with opened_listings(Settings()) as index:
        testing = find_testing(index, target_of(branch or _base())).key
        rows = [
            row
            for row in _rows(index, testing)
            if matches_package(package, row.package) and matches(platform, row.platform)
        ]
    numbers = Counter(row.worst for row in rows)
    shown = [row for row in rows if all_rows or row.worst not in _GOOD]
    listing = Listing(
        Column("package", is_key=True),
        Column("platform", is_key=True),
        Column("build"),
        Column("test"),
        Column("why", wraps=24),
    )
    for row in shown:
        listing.add(
            row.package, row.platform, row.text(JobKind.BUILD), row.text(JobKind.TEST), row.why
        )
    items = [row.as_json() for row in shown]
    counted = ", ".join(f"{numbers[each]:,} {each}" for each in WORST_FIRST if numbers[each])
    what = f"{testing.repository}:{testing.branch} at {testing.head[:12]}"
    note(f"{what}, {ago(testing.opened_at, now)} ago: {counted or 'no package matches'}")
    print_items(items, listing, as_json=as_json, none="nothing failed; --all shows all of them")


_GOOD = frozenset({Standing.PASSED, Standing.SKIPPED})


class _Row:
    """One package on one platform."""

    def __init__(self, package: str, platform: str, jobs: dict[JobKind, JobRecord]) -> None:
        self.package, self.platform, self._jobs = package, platform, jobs

    @property
    def worst(self) -> Standing:
        return min((each.standing for each in self._jobs.values()), key=WORST_FIRST.index)

    @property
    def why(self) -> str:
        """Why the worst of its jobs came to that."""
        return next(why(each.status) for each in self._jobs.values() if each.standing == self.worst)

    def text(self, kind: JobKind) -> str:
        return verdict(self._jobs[kind].status) if kind in self._jobs else ""

    def as_json(self) -> dict[str, object]:
        kinds = {kind.value: self.text(kind) for kind in self._jobs}
        return {"package": self.package, "platform": self.platform, **kinds, "why": self.why}


def _base() -> str:
    tracked = GitHubSettings().tracked
    return f"{tracked.repository}:{tracked.branch}"


def _rows(index: Listings, testing: RevisionKey) -> list[_Row]:
    found: dict[tuple[str, str], dict[JobKind, JobRecord]] = defaultdict(dict)
    for kind in (JobKind.BUILD, JobKind.TEST):
        for record in _jobs(index, testing, kind):
            job = record.status.job
            found[job.package, job.platform][kind] = record
    return [_Row(*key, jobs) for key, jobs in sorted(found.items())]


def _jobs(index: Listings, testing: RevisionKey, kind: JobKind) -> Iterator[JobRecord]:
    wanted = JobFilter(of=RevisionFilter(revision=testing), kind=kind)
    return all_items(lambda place: index.jobs(wanted, place=place))
