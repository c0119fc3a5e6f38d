"""`opam-ci check`: one pull request of a local clone, end to end."""

import asyncio
import re
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from temporalio.client import Client
from temporalio.service import RPCError

from opam_ci.cli.all_rows import with_all_rows
from opam_ci.cli.platforms import FileOption, chosen_table
from opam_ci.cli.render import View, make_view
from opam_ci.cli.session import working
from opam_ci.cli.tables import note
from opam_ci.cli.watch import watch
from opam_ci.clients import programs
from opam_ci.clients.git import Repository
from opam_ci.connection import served
from opam_ci.core.errors import InfrastructureError, UsageError
from opam_ci.core.outcome import Cause
from opam_ci.core.platform_select import embedded, named
from opam_ci.core.platforms import EMBEDDED, Platform
from opam_ci.core.requests import CheckOptions, PullRequestRef, Revision
from opam_ci.core.retry import RetrySettings
from opam_ci.core.summary import State, Summary
from opam_ci.gateway import PullRequests
from opam_ci.settings import Settings
from opam_ci.workflows import options
from opam_ci.workflows.pull_request import PullRequestWorkflow

EXIT_CODES = {State.SUCCESS: 0, State.FAILURE: 1, State.ERROR: 3, State.PENDING: 3}
"""What a check exits with: 1 is the package's, 3 is the CI's. 2 is a usage error."""


def find_platforms(
    file: Path | None,
    patterns: list[str],
    *,
    lower_bounds: bool | None = None,
    revdeps: bool | None = None,
) -> tuple[Platform, ...]:
    """Returns the platforms of these names or globs; for none, what this machine offers.

    Args:
        file: File of platforms; None for that of the settings.
        patterns: Names or globs.
        lower_bounds: Whether lower bounds are checked; None for what the file says of a
            platform that was named, and no otherwise: a person waits for the answer.
        revdeps: The same for reverse dependencies.

    Raises:
        UsageError: There is no such platform, or the file cannot be used.
    """
    table = chosen_table(file)
    chosen = named(table.platforms, patterns) if patterns else embedded(table)
    wished = {"lower_bounds": lower_bounds, "revdeps": revdeps}
    changes = {
        name: bool(wish) for name, wish in wished.items() if wish is not None or not patterns
    }
    return tuple(platform.model_copy(update=changes) for platform in chosen)


def find_revision(
    repo: Path, *, number: int | None, branch: str | None, base: str, checks: CheckOptions
) -> tuple[PullRequestRef, Revision]:
    """Finds head and base of a pull request in a local clone.

    Args:
        repo: The clone.
        number: Number of a pull request, open (fetched) or merged.
        branch: Or a branch, tag or commit.
        base: Branch into which it goes.
        checks: How to check it.

    Raises:
        UsageError: There is no such thing; the text says where it was looked for.
    """
    if (number is None) == (branch is None):
        raise UsageError("name what to check: either --pr NUMBER or --branch NAME")
    programs.require("git")
    with Repository.open(repo) as repository:
        if number is not None:
            found = repository.find_pull_request(number, base)
            head, onto = found.head, found.base
        else:
            onto, head = repository.resolve(base), repository.resolve(branch or "")
        repository.require_packages(onto)
    directory = repo.resolve()
    directory = directory.parent if directory.name == ".git" else directory
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", directory.name.removesuffix(".git"))[:100]
    ref = PullRequestRef(owner="local", repo=name or "repository", number=number, branch=branch)
    revision = Revision(
        head=head,
        base=onto,
        repository=str(repo.resolve()),
        options=checks,
        again=True,
        request=uuid.uuid4().hex,
    )
    return ref, revision


async def run_check(client: Client, ref: PullRequestRef, revision: Revision, view: View) -> Summary:
    """Checks a head and shows how it goes, until every job is decided.

    When the caller is interrupted, the check is cancelled too, and its builds with it.

    Returns:
        The last state.
    """
    await PullRequests(client).head_changed(ref, revision)
    summary: Summary | None = None

    def decided(now: Summary) -> bool:
        is_answer = now.request == revision.request and now.planned and now.concluded
        return is_answer and not now.counts.undecided

    try:
        async for now in watch(client, ref.workflow_id, decided):
            if now.request == revision.request:
                summary = now
                view.show(now)
            elif summary is not None:
                raise UsageError(f"another check of {ref.title} has taken this one's place")
            elif now.notices and now.notices[-1].startswith("invalid head_changed"):
                raise UsageError(now.notices[-1])
    except asyncio.CancelledError:
        note("interrupted: cancelling the check and its builds")
        await _cancel(client, ref)
        raise
    finally:
        view.stop()
    if summary is None:
        raise InfrastructureError("the workflow said nothing", cause=Cause.UNKNOWN)
    whole = await asyncio.to_thread(with_all_rows, summary, ref)
    if whole is not summary:
        view.show(whole)
    view.close(whole)
    return whole


async def _cancel(client: Client, ref: PullRequestRef) -> None:
    try:
        await client.get_workflow_handle(ref.workflow_id).signal(PullRequestWorkflow.cancel)
    except RPCError as error:
        note(f"could not cancel {ref.workflow_id}: {error.message}; try `opam-ci cancel`")


def check(
    repo: Annotated[Path, typer.Option(help="A local clone of opam-repository.")] = Path(),
    pr: Annotated[
        int | None, typer.Option(help="Number of a pull request in it: fetched, or merged.", min=1)
    ] = None,
    branch: Annotated[str | None, typer.Option(help="Or a branch, tag or commit.")] = None,
    base: Annotated[str, typer.Option(help="The branch it goes into.")] = "master",
    platform: Annotated[
        list[str] | None,
        typer.Option(help="Build on this platform only: name or glob; may be repeated."),
    ] = None,
    platforms: FileOption = None,
    lint_only: Annotated[bool, typer.Option(help="Stop after analysis and lint.")] = False,
    mirror: Annotated[
        list[str] | None,
        typer.Option(help="URL of an opam archive mirror for sources; may be repeated."),
    ] = None,
    only_mirrored: Annotated[
        bool,
        typer.Option(help="Build with no package whose sources are missing in the mirror."),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache", help="Use compiled dependencies of earlier builds again."
        ),
    ] = True,
    attempts: Annotated[
        int, typer.Option(help="Attempts of a job that meets a CI fault.", min=1, max=20)
    ] = 5,
    retry_after: Annotated[
        float,
        typer.Option(help="Seconds before the first retry; tripled each time.", min=0.1, max=86400),
    ] = 60,
    heartbeat_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds of silence after which a worker counts as lost.", min=2, max=86400
        ),
    ] = 60,
    lower_bounds: Annotated[
        bool | None,
        typer.Option(
            "--lower-bounds/--no-lower-bounds",
            help="Build with the lowest versions too; default: as a named platform says.",
            show_default=False,
        ),
    ] = None,
    revdeps: Annotated[
        bool | None,
        typer.Option(
            "--revdeps/--no-revdeps",
            help="Build what depends on the packages too; default: as a named platform says.",
            show_default=False,
        ),
    ] = None,
    temporal: Annotated[
        str | None, typer.Option(help="Address of a Temporal server; default: an embedded one.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port for the embedded server.", min=1, max=65535)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")] = False,
) -> None:
    """Checks a pull request of a local clone: analysis, lint, real builds and tests.

    Exits 0 if all that ran passed, 1 for a package failure, 2 for a usage error, and 3 for an
    internal CI error, which says nothing about the package.

    \b
        opam-ci check --repo ~/opam-repository --branch my-release
        opam-ci check --repo ~/opam-repository --pr 30203 --lint-only
    """  # noqa: D301 - \b, the character, makes click keep the lines as they are
    checks = CheckOptions(
        # A lint needs no platform, so it needs no file that has one for this machine either.
        platforms=find_platforms(
            platforms, platform or [], lower_bounds=lower_bounds, revdeps=revdeps
        )
        if platform or not lint_only
        else (EMBEDDED,),
        lint_only=lint_only,
        archive_mirrors=tuple(mirror or ()),
        only_mirrored=only_mirrored,
        unavailable=Settings().unavailable or "skip",
        build_cache=cache,
        retry=RetrySettings.beginning_with(timedelta(seconds=retry_after), attempts=attempts),
        heartbeat_timeout=timedelta(seconds=heartbeat_timeout),
        keep_open=False,
    )
    ref, revision = find_revision(repo, number=pr, branch=branch, base=base, checks=checks)
    summary = asyncio.run(_check(ref, revision, temporal, port, make_view(as_json=json)))
    raise typer.Exit(EXIT_CODES[summary.state])


async def _check(
    ref: PullRequestRef, revision: Revision, temporal: str | None, port: int | None, view: View
) -> Summary:
    settings = Settings()
    pools = frozenset(platform.pool for platform in revision.options.platforms)
    if revision.options.lint_only:
        pools = frozenset()
    own = pools & frozenset(settings.pools)
    async with working(settings, temporal=temporal, pools=own, port=port, tell=note) as client:
        await require_workers(client, pools - own)
        return await run_check(client, ref, revision, view)


async def require_workers(client: Client, pools: frozenset[str]) -> None:
    """Sees to it that jobs of pools that this machine does not serve would not wait for ever.

    Raises:
        UsageError: Nobody builds for one of the pools.
    """
    for pool in sorted(pools):
        if not await served(client, options.build_queue(pool)):
            raise UsageError(
                f"nobody builds for the pool {pool}: run `opam-ci worker --no-orchestrate --pool "
                f"{pool} --temporal ADDRESS` on a machine of it"
            )
