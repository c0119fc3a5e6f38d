"""`opam-ci check`: one pull request of a local clone, end to end."""

import asyncio
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer
from temporalio.client import Client

from opam_ci.app.connection import served
from opam_ci.app.pull_requests import PullRequests
from opam_ci.app.runners import pools_with_platforms, unserved
from opam_ci.app.settings import Settings
from opam_ci.cli.author.platforms import chosen_table
from opam_ci.cli.local import services, session, system
from opam_ci.cli.local.session import working
from opam_ci.cli.output.render import View, make_view
from opam_ci.cli.output.tables import note
from opam_ci.cli.output.watch import watch
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.all_rows import with_all_rows
from opam_ci.cli.selection.lookup import base_and_head
from opam_ci.clients import programs
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.platform_files import load_platforms
from opam_ci.clients.runners.phases import mirrors
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.requests import CheckOptions, PullRequestRef, Revision
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.summary import State, Summary
from opam_ci.core.platforms.model import EMBEDDED, Platform, Runner
from opam_ci.core.platforms.select import choose, embedded, named
from opam_ci.web.addresses import target_path
from opam_ci.workflows import options

EXIT_CODES = {State.SUCCESS: 0, State.FAILURE: 1, State.ERROR: 3, State.PENDING: 3}
"""Exit codes of a check: 1 is a package failure, 3 a CI fault. 2 is a usage error."""


def find_platforms(
    file: Path | None,
    patterns: list[str],
    *,
    lower_bounds: bool | None = None,
    revdeps: bool | None = None,
) -> tuple[Platform, ...]:
    """Returns the platforms of these names or globs; by default the one that needs no image.

    Args:
        file: File of platforms; None for that of the settings.
        patterns: Names or globs.
        lower_bounds: Whether lower bounds are checked; None for the file's value of a named
            platform, and for no otherwise: a person waits for the result.
        revdeps: The same for reverse dependencies.

    Raises:
        UsageError: There is no such platform, or the file is invalid.
    """
    table = chosen_table(file)
    chosen = named(table.platforms, patterns) if patterns else (embedded(table),)
    requested = {"lower_bounds": lower_bounds, "revdeps": revdeps}
    changes = {
        name: bool(value) for name, value in requested.items() if value is not None or not patterns
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
        base: Branch into which it is merged.
        checks: How to check it.

    Raises:
        UsageError: There is no such pull request or branch.
    """
    if (number is None) == (branch is None):
        raise UsageError("give either --pr NUMBER or --branch NAME")
    programs.require("git")
    with Repository.open(repo) as repository:
        base_id, head_id = base_and_head(repository, number=number, branch=branch, base=base)
        repository.require_packages(base_id)
    directory = repo.resolve()
    directory = directory.parent if directory.name == ".git" else directory
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", directory.name.removesuffix(".git"))[:100]
    ref = PullRequestRef(owner="local", repo=name or "repository", number=number, branch=branch)
    revision = Revision(
        head=head_id,
        base=base_id,
        repository=str(repo.resolve()),
        options=checks,
        again=True,
        request=uuid.uuid4().hex,
    )
    return ref, revision


async def run_check(client: Client, ref: PullRequestRef, revision: Revision, view: View) -> Summary:
    """Checks a head and shows its progress, until every job is decided.

    If the caller is interrupted, the check is cancelled, and its builds with it.

    Returns:
        The last state.
    """
    pull_requests = PullRequests(client)
    await pull_requests.head_changed(ref, revision)
    summary: Summary | None = None

    def decided(now: Summary) -> bool:
        is_current = now.request == revision.request
        return is_current and now.planned and now.concluded and not now.counts.undecided

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
        try:
            await pull_requests.cancel(ref)
        except InfrastructureError as error:
            note(f"could not cancel the check: {error}; try `opam-ci cancel`")
        raise
    finally:
        view.stop()
    if summary is None:
        raise InfrastructureError(
            "the workflow returned no state of this check", cause=Cause.UNKNOWN
        )
    whole = await asyncio.to_thread(with_all_rows, summary, ref)
    if whole is not summary:
        view.show(whole)
    view.close(whole)
    return whole


def check(
    repo: Annotated[Path, typer.Option(help="A local clone of opam-repository.")] = Path(),
    pr: Annotated[
        int | None, typer.Option(help="Number of a pull request in it: fetched, or merged.", min=1)
    ] = None,
    branch: Annotated[str | None, typer.Option(help="Or a branch, tag or commit.")] = None,
    base: Annotated[str, typer.Option(help="The branch into which it is merged.")] = "master",
    platform: Annotated[
        list[str] | None,
        typer.Option(help="Build on this platform only: name or glob; may be repeated."),
    ] = None,
    platforms: opt.PlatformFile = None,
    lint_only: opt.LintOnly = False,
    mirror: opt.Mirror = None,
    only_mirrored: Annotated[
        bool,
        typer.Option(help="Build with no package whose sources are missing in the mirror."),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Reuse compiled dependencies of earlier builds."),
    ] = True,
    reuse: Annotated[
        bool | None,
        typer.Option(
            "--reuse/--no-reuse",
            help="Take the verdicts of earlier jobs with the same inputs; default: yes.",
            show_default=False,
        ),
    ] = None,
    audit: Annotated[
        int,
        typer.Option(
            help="Percent of the jobs with a known verdict that run all the same, to compare both.",
            min=0,
            max=100,
        ),
    ] = 0,
    attempts: opt.Attempts = 5,
    retry_after: opt.RetryAfter = 60,
    heartbeat_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds without a heartbeat after which a worker counts as lost.",
            min=2,
            max=86400,
        ),
    ] = 60,
    lower_bounds: Annotated[
        bool | None,
        typer.Option(
            "--lower-bounds/--no-lower-bounds",
            help="Build with the lowest versions too; default: as the named platform sets it.",
            show_default=False,
        ),
    ] = None,
    revdeps: Annotated[
        bool | None,
        typer.Option(
            "--revdeps/--no-revdeps",
            help="Build reverse dependencies too; default: as the named platform sets it.",
            show_default=False,
        ),
    ] = None,
    temporal: opt.Temporal = None,
    port: Annotated[
        int | None, typer.Option(help="Port for the embedded server.", min=1, max=65535)
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Checks a pull request of a local clone: analysis, lint, real builds and tests.

    Exits 0 if all that ran passed, 1 for a package failure, 2 for a usage error, and 3 for an
    internal CI error, which is no verdict about the package.

    \b
        opam-ci check --repo ~/opam-repository --branch my-release
        opam-ci check --repo ~/opam-repository --pr 30203 --lint-only
    """  # noqa: D301 - \b, the character, makes click keep the lines as they are
    settings = Settings()
    checks = CheckOptions(
        # A lint needs no platform, so the file need not have one for this machine.
        platforms=find_platforms(
            platforms, platform or [], lower_bounds=lower_bounds, revdeps=revdeps
        )
        if platform or not lint_only
        else (EMBEDDED,),
        lint_only=lint_only,
        archive_mirrors=tuple(mirror or ()),
        only_mirrored=only_mirrored,
        mirrored=_contents(mirror or ()) if only_mirrored else None,
        unavailable=settings.unavailable or "skip",
        build_cache=cache,
        reuse_verdicts=settings.reuse_verdicts if reuse is None else reuse,
        audited_percent=audit,
        retry=RetrySettings.beginning_with(timedelta(seconds=retry_after), attempts=attempts),
        heartbeat_timeout=timedelta(seconds=heartbeat_timeout),
        keep_open=False,
    )
    ref, revision = find_revision(repo, number=pr, branch=branch, base=base, checks=checks)
    if platforms is not None:
        # A worker that is started for the check reads its pools there.
        settings = settings.model_copy(update={"platforms": platforms.absolute()})
    view = make_view(as_json=as_json)
    summary = asyncio.run(_check(settings, ref, revision, temporal, port, view))
    raise typer.Exit(EXIT_CODES[summary.state])


def _contents(urls: Sequence[str]) -> str | None:
    """Returns a digest of what mirrors have; None if they are not all on this machine."""
    try:
        return mirrors.inside(tuple(urls)).contents
    except InfrastructureError:
        return None  # its jobs say why, or are done by workers that have them


async def _check(
    settings: Settings,
    ref: PullRequestRef,
    revision: Revision,
    temporal: str | None,
    port: int | None,
    view: View,
) -> Summary:
    platforms = () if revision.options.lint_only else revision.options.platforms
    pools = pools_with_platforms(load_platforms(settings.platforms)) if platforms else ()
    lacks = await unserved(settings, pools)
    own = {pool.name for pool in pools} - lacks.keys()
    if settings.pools is not None:
        own &= set(settings.pools)
    needed = frozenset(one.pool for each in platforms if (one := choose(each, own)) is not None)
    is_alone = temporal is None and settings.explicit_temporal is None
    if is_alone and not needed and any(one.runner is Runner.ROOTFS for one in platforms):
        # One command for all that is missing, before anything is started.
        system.require()
    async with working(settings, temporal=temporal, pools=needed, port=port, report=note) as client:
        if platforms:
            chosen = await with_workers(client, platforms, needed, lacks)
            options = revision.options.model_copy(update={"platforms": chosen})
            revision = revision.model_copy(update={"options": options})
        pages = asyncio.create_task(_serve_pages(settings, ref)) if is_alone else None
        summary = await run_check(client, ref, revision, view)
        if pages is not None:
            await pages
        return summary


async def _serve_pages(settings: Settings, ref: PullRequestRef) -> None:
    """Has the embedded services serve pages, and prints the address of the check's."""
    embedded = services.status(settings.home)
    if embedded is None:
        return
    here = session.at_embedded(settings, embedded)
    try:
        url = await asyncio.to_thread(session.start_pages, here, embedded)
    except InfrastructureError as error:
        note(f"no pages: {error}")
        return
    target = f"heads/{ref.branch}" if ref.number is None else f"pull/{ref.number}"
    note(f"page: {url}{target_path(f'{ref.owner}/{ref.repo}', target)}")


async def with_workers(
    client: Client,
    platforms: tuple[Platform, ...],
    own: frozenset[str],
    lacks: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Platform, ...]:
    """Returns the platforms, each in a pool that has a worker, where there is one.

    Args:
        client: To Temporal.
        platforms: As they were named.
        own: Pools that this machine serves for the check.
        lacks: Why this machine cannot serve the others.

    Raises:
        UsageError: None of the platforms has a worker: no job would run.
    """
    others = {each.pool for one in platforms for each in one.choices} - own
    polled = [pool for pool in sorted(others) if await served(client, options.build_queue(pool))]
    live = own.union(polled)
    chosen = {one.name: choose(one, live) for one in platforms}
    missing = dict.fromkeys(one.pool for one in platforms if chosen[one.name] is None)
    for pool in missing:
        why = f" ({lacks[pool]})" if pool in lacks else ""
        text = (
            f"no worker builds for the pool {pool}, and this machine cannot{why}: run `opam-ci "
            f"worker --no-orchestrate --pool {pool} --temporal ADDRESS` on a machine of it"
        )
        if not any(chosen.values()):
            raise UsageError(text)
        note(text)
    return tuple(chosen[one.name] or one for one in platforms)
