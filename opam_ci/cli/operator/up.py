"""`opam-ci up`: sets up a machine, starts the embedded services and tests them."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from pydantic import ValidationError

from opam_ci.app.connection import connect
from opam_ci.app.runners import make_runner
from opam_ci.app.settings import Settings
from opam_ci.cli.author.check import find_platforms, find_revision, run_check
from opam_ci.cli.local import services, session, system
from opam_ci.cli.local.services import Embedded
from opam_ci.cli.operator import example
from opam_ci.cli.output.render import View, make_view, print_summary
from opam_ci.cli.output.tables import output
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.summary import Summary
from opam_ci.core.model import Frozen
from opam_ci.core.packed import UNPACKED
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.worker import make_lint

Report = Callable[[str], None]

EXAMPLE_RETRY = RetrySettings(initial_interval=timedelta(seconds=3), backoff_coefficient=1.0)
"""A retry interval for a waiting person: the example's fault is repaired within half a second."""


class Progress:
    """Prints to stderr the current step, and the seconds since the start."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._step = 0
        self._started = time.monotonic()

    def report(self, text: str) -> None:
        """Prints a line about the current step."""
        elapsed = time.monotonic() - self._started
        print(f"{elapsed:5.0f} s  [{self._step}/{self._steps}] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Prints the name of the next step, and at its end how long it took."""
        self._step += 1
        self.report(name)
        begun = time.monotonic()
        yield
        self.report(f"{name}: done in {time.monotonic() - begun:.1f} s")


class _RepairingView:
    """Shows the example's check, and repairs the source host once a job has recorded its fault."""

    def __init__(self, inner: View, repair: Callable[[Summary], None]) -> None:
        self._inner = inner
        self._repair = repair

    def show(self, summary: Summary) -> None:
        self._repair(summary)
        self._inner.show(summary)

    def stop(self) -> None:
        self._inner.stop()

    def close(self, summary: Summary) -> None:
        self._inner.close(summary)


class Shown(Frozen):
    """The example as it was checked last, kept in the state directory.

    Attributes:
        version: Of the code that checked it.
        summary: The last state.
    """

    version: str
    summary: Summary


def bring_up(
    settings: Settings, *, port: int | None, ui_port: int | None, view: View | None
) -> tuple[Embedded, Summary | None]:
    """Executes all steps; a step whose result exists takes a moment.

    Args:
        settings: Of the embedded installation.
        port: Port for the Temporal server.
        ui_port: Port for its Web UI.
        view: Shows the example's check; None skips the example.

    Returns:
        The running services, and the last state of the example.

    Raises:
        UsageError: The machine lacks something, or a port is in use.
        InfrastructureError: A step failed, or the example has unexpected outcomes.
    """
    progress = Progress(steps=5 if view is None else 6)
    with progress.step("Debian packages"):
        system.install(progress.report)
    # The server first: a port in use is reported before a minute's work, not after.
    with progress.step("Temporal server"):
        embedded = services.start_temporal(settings.home, port=port, ui_port=ui_port)
    settings = session.at_embedded(settings, embedded)
    with progress.step("root file system for builds"):
        asyncio.run(_make_root(settings, progress.report))
    with progress.step("worker"):
        embedded = session.start_worker(settings)
    with progress.step("pages"):
        pages_url = session.start_pages(settings, embedded)
        embedded = embedded.model_copy(update={"pages_url": pages_url})
    summary = None
    if view is not None:
        with progress.step("example pull request with real builds"), example.source_host() as host:
            made = example.create(settings.home / "example", host.url)
            repairing = _RepairingView(view, example.repair_when_noticed(host))
            summary = asyncio.run(_check(settings, made, host.url, repairing))
        if wrong := example.discrepancies(summary):
            raise InfrastructureError(
                "the example has unexpected outcomes: " + "; ".join(wrong),
                cause=Cause.UNKNOWN,
            )
    return embedded, summary


def up(
    port: Annotated[
        int | None, typer.Option(help="Port for the Temporal server (7233).", min=1, max=65535)
    ] = None,
    ui_port: Annotated[
        int | None, typer.Option(help="Port for its Web UI (PORT + 1000).", min=1, max=65535)
    ] = None,
    with_example: Annotated[
        bool | None,
        typer.Option(
            "--example/--no-example",
            help="Check the example pull request; default: unless this version has checked it.",
        ),
    ] = None,
) -> None:
    """Sets everything up, starts it, and checks an example pull request with real builds.

    Installs Debian packages if permitted, makes the root file system, and starts the Temporal
    server and a worker in the background. It may be run again at any time: what exists is used.
    """
    settings = Settings()
    shown = _last_shown(settings) if with_example is None else None
    check_it = with_example or (with_example is None and shown is None)
    view = make_view(as_json=False) if check_it else None
    embedded, summary = bring_up(settings, port=port, ui_port=ui_port, view=view)
    if summary is not None:
        _keep(settings, summary)
        print("\nThese are the outcomes of the example: passed, failed, skipped, and passed after")
        print("an infrastructure fault (a source host that was unavailable) by an automatic retry.")
    elif shown is not None:
        print("The example, as this version has checked it before (--example checks it again):\n")
        print_summary(output(), shown)
    print(_next_steps(embedded, with_example=check_it or shown is not None))


def _last_shown(settings: Settings) -> Summary | None:
    """Returns the last state of the example, if this version of the code checked it."""
    try:
        shown = Shown.model_validate_json((settings.home / "example.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return shown.summary if shown.version == services.code_version() else None


def _keep(settings: Settings, summary: Summary) -> None:
    shown = Shown(version=services.code_version(), summary=summary)
    (settings.home / "example.json").write_text(shown.model_dump_json(context=UNPACKED))


async def _make_root(settings: Settings, report: Report) -> None:
    runner = make_runner(EMBEDDED.runner, settings, ArtifactStore.open(settings.store_url))
    lint = make_lint(settings, report)
    await lint.program.require()
    await runner.prepare(report)
    await lint.program.prepare()


async def _check(settings: Settings, made: example.Example, source_url: str, view: View) -> Summary:
    client = await connect(settings)
    # As a mirror it may be reached, although it is on the loopback interface.
    checks = CheckOptions(
        platforms=find_platforms(None, []),
        retry=EXAMPLE_RETRY,
        keep_open=False,
        archive_mirrors=(source_url,),
        # It shows builds, also the second time.
        reuse_verdicts=False,
    )
    ref, revision = find_revision(
        made.repo, number=None, branch=made.branch, base=made.base, checks=checks
    )
    return await run_check(client, ref, revision, view)


def _next_steps(embedded: Embedded, *, with_example: bool) -> str:
    hints = {"./opam-ci status": "every pull request and its jobs"}
    if with_example:
        hints[f"{embedded.pages_url}/local/example/heads/example"] = "the example, as a page"
        log = "./opam-ci log local/example/branch-example 'build example-type-error'"
        hints[log] = "why a job has its outcome"
        hints[f"git --git-dir={embedded.home / 'example'} log -p example"] = "what it submits"
    hints["./opam-ci check --repo CLONE --branch NAME"] = "check a branch of your own clone"
    hints["./opam-ci down"] = "stop; nothing is lost"
    return "\n".join(
        [
            "",
            f"Pages     {embedded.pages_url}",
            f"Web UI    {embedded.ui_url}",
            f"Temporal  {embedded.address}",
            f"state     {embedded.home}",
            "",
            "Next steps:",
            *(f"  {command}\n      {what}" for command, what in hints.items()),
        ]
    )
