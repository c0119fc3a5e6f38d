"""`opam-ci up`: sets a machine up, starts the embedded services and shows that they work."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import typer
from pydantic import ValidationError

from opam_ci.cli import example, services, session, system
from opam_ci.cli.check import find_revision, run_check
from opam_ci.cli.render import View, make_view, print_summary
from opam_ci.cli.services import Embedded
from opam_ci.cli.tables import output
from opam_ci.clients.opam_lint import OpamLint
from opam_ci.clients.runners.base import MachineRunner
from opam_ci.clients.store import ArtifactStore
from opam_ci.connection import connect
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause
from opam_ci.core.packed import FOR_PEOPLE
from opam_ci.core.requests import CheckOptions
from opam_ci.core.retry import RetrySettings
from opam_ci.core.summary import Summary
from opam_ci.settings import Settings
from opam_ci.worker import make_lint, make_runner

Tell = Callable[[str], None]

EXAMPLE_RETRY = RetrySettings(initial_interval=timedelta(seconds=3), backoff_coefficient=1.0)
"""A retry that a person can wait for: the example's fault is gone within half a second."""


@dataclass(frozen=True)
class Parts:
    """What `bring_up` puts together, in the order of use.

    Attributes:
        install_packages: Installs missing Debian packages.
        start_temporal: Starts the server, or finds it.
        make_root: Makes the root file system, unless it is there.
        start_worker: Starts the worker, or finds it.
        check: Checks a pull request through them and returns its last state.
    """

    install_packages: Callable[[Tell], None]
    start_temporal: Callable[[], Embedded]
    make_root: Callable[[Tell], None]
    start_worker: Callable[[Embedded], Embedded]
    check: Callable[[Embedded, example.Example, View], Summary]


class Progress:
    """Says on stderr which step is under way, and the seconds since the start."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._step = 0
        self._started = time.monotonic()

    def tell(self, words: str) -> None:
        """Says something about the step that is under way."""
        elapsed = time.monotonic() - self._started
        print(
            f"{elapsed:5.0f} s  [{self._step}/{self._steps}] {words}", file=sys.stderr, flush=True
        )

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Names the next step, and says when it is done and how long it took."""
        self._step += 1
        self.tell(name)
        begun = time.monotonic()
        yield
        self.tell(f"{name}: done in {time.monotonic() - begun:.1f} s")


class _RepairingView:
    """Shows the example's check, and ends the source host's fault once it is on record."""

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
        summary: What it came to.
    """

    version: str
    summary: Summary


def bring_up(
    settings: Settings, parts: Parts, view: Callable[[], View] | None
) -> tuple[Embedded, Summary | None]:
    """Goes through all steps; each is a matter of moments where its result is there already.

    Args:
        settings: Of the embedded installation.
        parts: What the steps do.
        view: Makes what shows the check of the example; None leaves the example out.

    Returns:
        The running services, and what the example came to.

    Raises:
        UsageError: The machine lacks something, or a port is taken.
        InfrastructureError: Something of ours failed, or the example came to the wrong end.
    """
    progress = Progress(steps=4 if view is None else 5)
    with progress.step("Debian packages"):
        parts.install_packages(progress.tell)
    # First the server: that a port is taken is said before a minute's work, not after.
    with progress.step("Temporal server"):
        embedded = parts.start_temporal()
    with progress.step("root file system for builds"):
        parts.make_root(progress.tell)
    with progress.step("worker"):
        embedded = parts.start_worker(embedded)
    summary = None
    if view is not None:
        with progress.step("example pull request with real builds"), example.source_host() as host:
            made = example.create(settings.home / "example", host.url)
            repairing = _RepairingView(view(), example.repair_when_noticed(host))
            summary = parts.check(embedded, made, repairing)
        if wrong := example.discrepancies(summary):
            raise InfrastructureError(
                "the example did not come to the end it was made for: " + "; ".join(wrong),
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
            help="Check the example pull request; default: unless this version has done so.",
        ),
    ] = None,
) -> None:
    """Sets everything up, starts it, and checks an example pull request with real builds.

    Installs Debian packages where it may, makes the root file system, and starts the Temporal
    server and a worker in the background. Run it again at any time: what is there is used.
    """
    settings = Settings()
    parts = Parts(
        install_packages=system.install,
        start_temporal=lambda: services.start_temporal(settings.home, port=port, ui_port=ui_port),
        make_root=lambda tell: _make_root(settings, tell),
        start_worker=lambda embedded: session.start_worker(_at(settings, embedded)),
        check=lambda embedded, made, view: asyncio.run(_check(_at(settings, embedded), made, view)),
    )
    shown = _last_shown(settings) if with_example is None else None
    check_it = with_example or (with_example is None and shown is None)
    embedded, summary = bring_up(
        settings, parts, (lambda: make_view(as_json=False)) if check_it else None
    )
    if summary is not None:
        _keep(settings, summary)
        print(
            "\nThat is what the example is for: passed, failed, skipped, and passed after a fault"
        )
        print("of the CI's own (a source host out of order) by an automatic retry.")
    elif shown is not None:
        print("The example, as this version has checked it before (--example checks it again):\n")
        print_summary(output(), shown)
    print(_how_to_look_further(embedded, with_example=check_it or shown is not None))


def _last_shown(settings: Settings) -> Summary | None:
    """Returns what the example came to, if it was this very code that checked it."""
    try:
        shown = Shown.model_validate_json((settings.home / "example.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return shown.summary if shown.version == services.code_version() else None


def _keep(settings: Settings, summary: Summary) -> None:
    shown = Shown(version=services.code_version(), summary=summary)
    (settings.home / "example.json").write_text(shown.model_dump_json(context=FOR_PEOPLE))


def _at(settings: Settings, embedded: Embedded) -> Settings:
    return settings.model_copy(update={"temporal": embedded.address})


def _make_root(settings: Settings, tell: Tell) -> None:
    runner = make_runner(settings, ArtifactStore.open(settings.store_url))
    asyncio.run(_prepare(runner, make_lint(settings, tell), tell))


async def _prepare(runner: MachineRunner, lint: OpamLint, tell: Tell) -> None:
    await lint.program.require()
    await runner.prepare(tell)
    await lint.program.prepare()


async def _check(settings: Settings, made: example.Example, view: View) -> Summary:
    client = await connect(settings)
    checks = CheckOptions(retry=EXAMPLE_RETRY, keep_open=False)
    ref, revision = find_revision(
        made.repo, number=None, branch=made.branch, base=made.base, checks=checks
    )
    return await run_check(client, ref, revision, view)


def _how_to_look_further(embedded: Embedded, *, with_example: bool) -> str:
    hints = {"./opam-ci status": "every pull request and its jobs"}
    if with_example:
        log = "./opam-ci log local/example/branch-example 'build example-type-error'"
        hints[log] = "why a job came out as it did"
        hints[f"git --git-dir={embedded.home / 'example'} log -p example"] = "what it submits"
    hints["./opam-ci check --repo CLONE --branch NAME"] = "check a branch of your own clone"
    hints["./opam-ci down"] = "stop; nothing is lost"
    return "\n".join(
        [
            "",
            f"Web UI    {embedded.ui_url}",
            f"Temporal  {embedded.address}",
            f"state     {embedded.home}",
            "",
            "Look further:",
            *(f"  {command}\n      {what}" for command, what in hints.items()),
        ]
    )
