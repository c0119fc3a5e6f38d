"""Fault drills: what breaks, how it is provoked, and what the judge must say about it."""

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import BuildReport, PhaseTimeouts
from opam_ci.core.jobs.job import JobKind, Phase
from opam_ci.core.jobs.outcome import Errored, Failed, Outcome, Passed, Skipped, label
from tests.support.worlds.rootfs import FAST, World, archive

AT_ONCE = 4
"""Drills that run at the same time; most of them wait rather than compute."""

SOURCE = archive({"good.ml": "let () = ()\n", "broken.ml": "let x : int = true\n"})
DIGEST = hashlib.sha256(SOURCE).hexdigest()


@dataclass(frozen=True)
class Drill:
    """One fault.

    Attributes:
        name: Of the test.
        packages: Bodies of opam files.
        label: The outcome, such as `errored(dns)`.
        rule: The rule that decides.
        phase: Where it happened.
        shown: What the evidence must show, in its lines or its detail.
        job: The package to install.
        kind: Of the job.
        timeouts: Limits of the phases.
        blame: The package to blame, where it is not the job's own.
        mirrors: Archive mirrors.
    """

    name: str
    packages: Mapping[str, str]
    label: str
    rule: str
    phase: Phase
    shown: str
    job: str = "asked.1"
    kind: JobKind = JobKind.BUILD
    timeouts: PhaseTimeouts = FAST
    blame: str | None = None
    mirrors: tuple[str, ...] = ()


@dataclass
class Result:
    """What came of a drill."""

    outcome: Outcome
    report: BuildReport
    log: str


async def run(world: World, drill: Drill) -> Result:
    """Runs a drill through the real runner and the judge."""
    report, log = await world.build(
        drill.packages,
        drill.job,
        kind=drill.kind,
        timeouts=drill.timeouts,
        mirrors=drill.mirrors,
    )
    outcome = judge(report.facts, report.logs, worker="w@drill", attempt=1)
    return Result(outcome, report, log.text)


def run_all(world: World, drills: list[Drill]) -> dict[str, Result]:
    """Runs drills, some at a time, over one base layer."""

    async def everything() -> dict[str, Result]:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(drill: Drill) -> tuple[str, Result]:
            async with slots:
                return drill.name, await run(world, drill)

        return dict(await asyncio.gather(*map(one, drills)))

    return asyncio.run(everything())


def check(drill: Drill, result: Result) -> None:
    """Asserts outcome, cause or reason, rule, phase and evidence of a drill."""
    outcome = result.outcome
    assert isinstance(outcome, Errored | Failed | Skipped | Passed), outcome
    evidence = outcome.evidence
    told = f"{label(outcome)} by {evidence.rule}: {evidence}\n{result.log[-3000:]}"
    assert label(outcome) == drill.label, told
    assert (evidence.rule, evidence.phase) == (drill.rule, drill.phase), told
    assert (evidence.worker, evidence.attempt) == ("w@drill", 1)
    shown = "\n".join([*(line.text for line in evidence.lines), evidence.detail or ""])
    assert drill.shown in shown, told
    if isinstance(outcome, Failed):
        assert outcome.blame == drill.blame, told
    # Evidence says where in the log its lines are.
    data = result.log.encode()
    for line in evidence.lines:
        start = data[line.offset :].decode(errors="replace")
        assert start.startswith(line.text[:40]), (line, start[:80])


def within(**seconds: float) -> PhaseTimeouts:
    """Returns limits of which some are short."""
    update = {name: timedelta(seconds=value) for name, value in seconds.items()}
    return FAST.model_copy(update=update)


def closed_port() -> int:
    """Returns a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Faulty:
    """An HTTP server on the loopback interface that fails as its paths say.

    `/ok` serves a source; `/status/N` answers N; `/truncated` promises more than it sends;
    `/hang` accepts and says nothing.
    """

    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, _, rest = self.path.strip("/").partition("/")
                if kind == "hang":
                    faulty.released.wait()
                    return
                status = int(rest.split("/")[0]) if kind == "status" else 200
                body = SOURCE if status == 200 else b"no\n"
                self.send_response(status)
                promised = len(body) + (1000 if kind == "truncated" else 0)
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["Faulty"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def source(url: str, digest: str = DIGEST) -> str:
    """Returns the `url` section of an opam file."""
    return f'url {{ src: "{url}" checksum: "sha256={digest}" }}\n'


def own_and_dependency(
    name: str, section: str, make: Callable[[str, Mapping[str, str]], Drill]
) -> list[Drill]:
    """Makes the two drills of a faulty source: the job's own, and a dependency's."""
    above = 'depends: ["dep"]\n'
    return [
        make(f"{name}, own", {"asked.1": section}),
        make(f"{name}, of a dependency", {"asked.1": above, "dep.1": section}),
    ]
