"""A whole fleet for a fake GitHub: `opam-ci serve`, three build workers, Prometheus, an index."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opam_ci.cli import debian
from opam_ci.cli.local import services
from opam_ci.clients.index import Index
from opam_ci.clients.index.paging import Place
from opam_ci.clients.runners.settings import default_home as default_cache
from opam_ci.core.incidents.model import Incident
from opam_ci.core.jobs.records import AttemptRecord, JobRecord
from opam_ci.core.jobs.summary import Standing
from tests.support.fakes import opam_repository, postgres
from tests.support.fakes.prometheus import Prometheus, prometheus, require
from tests.support.fakes.serving import github_with_troubles, served
from tests.support.ports import free_port
from tests.support.samples.samples import Recorder, Truth
from tests.support.worlds.github import GitHubWorld, LiveGitHub
from tests.support.worlds.machines import health

POOL = "linux-amd64"
WORKERS = 3
PLATFORM = """
[pools.linux-amd64]
arch = "amd64"

[[platforms]]
distribution = "debian-13"
ocaml = "5.3"
"""

GOOD = 'build: ["true"]\n'
# The words name the package: pull requests that fail alike would be judged again (ADR 0014).
BROKEN = 'build: ["sh" "-c" "echo Error: %{name}% does not compile; exit 2"]\n'

_EVERYTHING = Place(limit=10_000)


class Machine:
    """A build worker, a process as on a machine of its own.

    Attributes:
        process: Its process, or what became it.
        port: Of its metrics.
        home: What only it has.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.process: subprocess.Popen[bytes]
        home.mkdir()

    @property
    def name(self) -> str:
        """With what its name in evidence begins."""
        return f"{self.process.pid}@"

    @property
    def log(self) -> Path:
        return self.home / "log"

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], before: Sequence[str] = ()
    ) -> None:
        """Starts it; `before` are words of programs that become the worker."""
        more = {
            "OPAM_CI_HOME": str(self.home),
            "OPAM_CI_METRICS": f"127.0.0.1:{self.port}",
            services.READY_FILE: str(self.home / "ready"),
        }
        program = (sys.executable, "-m", "opam_ci.cli.main", "worker", "--no-orchestrate")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*before, *program, *words],
                env={**more, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(self.log.read_text()[-3000:])
        return (self.home / "ready").exists()

    def health(self) -> dict[str, Any]:
        return health(self.port)[1]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class FleetWorld(GitHubWorld):
    """All parts. Pull requests are opened by number, each with a head of its own.

    Attributes:
        words: How `opam-ci serve` is started.
        recorder: Has every status that GitHub was sent.
        machines: The build workers.
        heads: By number of a pull request.
        broken: Heads with a package that really is broken.
        away: Times in which nothing could be told, of GitHub or of Temporal.
        maximum: Attempts of a job in a round.
        prometheus: Scrapes all processes.
    """

    prometheus: Prometheus
    recorder: Recorder

    def __init__(self, home: Path, api_url: str, fake: LiveGitHub, maximum: int) -> None:
        super().__init__(home, api_url, fake)
        self.maximum = maximum
        self.words = ("--attempts", str(maximum), "--retry-after", "1")
        compiler = {
            path: text.encode()
            for name, body in opam_repository.COMPILER.items()
            for path, text in opam_repository.package(name, body).items()
        }
        compiler["repo"] = b'opam-version: "2.0"\n'
        self.base = self.remote.commit("master", compiler, parents=(self.base,))
        self.metrics_port = free_port()
        (home / "platforms.toml").write_text(PLATFORM)
        self.environment |= {
            "OPAM_CI_STORE": (home / "store").as_uri(),
            "OPAM_CI_CACHE": str(default_cache()),
            "OPAM_CI_PLATFORMS": str(home / "platforms.toml"),
            "OPAM_CI_CANARY": "false",
            "OPAM_CI_NETWORK_ALLOW": "127.0.0.1",
            "OPAM_CI_INCIDENT_PROBE": "PT2S",
            "OPAM_CI_INCIDENT_QUIET": "PT10S",
            # One status for each context: twice as many say nothing more.
            "OPAM_CI_GITHUB_CHECKS": "false",
        }
        self.machines = [Machine(home / f"worker-{number}") for number in range(WORKERS)]
        self.heads: dict[int, str] = {}
        self.broken: set[str] = set()
        self.away: list[tuple[datetime, datetime]] = []

    def serve(self) -> None:
        """Starts `opam-ci serve` with metrics."""
        self.environment["OPAM_CI_METRICS"] = f"127.0.0.1:{self.metrics_port}"
        self.start()

    def worker_environment(self, **more: str) -> dict[str, str]:
        """Returns what a build worker of a fleet knows: no GitHub, no index."""
        unknown = ("OPAM_CI_GITHUB_", "OPAM_CI_INDEX", "OPAM_CI_HOME", "OPAM_CI_METRICS")
        known = {
            name: value for name, value in self.environment.items() if not name.startswith(unknown)
        }
        return {**known, **more}

    @property
    def index_url(self) -> str:
        return self.environment.get(
            "OPAM_CI_INDEX", f"sqlite:///{self.home / 'ci' / 'index.sqlite'}"
        )

    # The people.

    def open(self, number: int, *bodies: str, broken: bool = False) -> str:
        """Opens a pull request with a package for each body of an opam file."""
        files: dict[str, Any] = {}
        for place, body in enumerate(bodies, 1):
            package = opam_repository.package(f"p{number}-{place}.1", body)
            files |= {path: text.encode() for path, text in package.items()}
        head = self.commit(number, files)
        self.heads[number] = head
        if broken:
            self.broken.add(head)
        self.do(self.fake.open(number, head))
        return head

    def open_broken(self, number: int) -> None:
        """Opens a pull request with a broken package beside a good one, and sees it fail."""
        self.open(number, BROKEN, GOOD, broken=True)
        self.wait_said(self.heads[number], self.end(number))

    def jobs_of(self, number: int) -> int:
        """Returns how many jobs a pull request has."""
        files = self.remote.git("diff", "--name-only", self.base, self.heads[number]).splitlines()
        # The analysis, and for each package its lint and its build.
        return 1 + 2 * len(files)

    def end(self, number: int) -> str:
        """Returns what GitHub must be told of a pull request in the end."""
        builds = (self.jobs_of(number) - 1) // 2
        broken = self.heads[number] in self.broken
        numbers = f"failure: 1 failed, {builds - 1}" if broken else f"success: {builds}"
        return f"{numbers} passed; analysis and lint passed"

    def wait_ends(self, seconds: float = 120) -> None:
        """Waits until GitHub was told the end of every pull request."""
        ends = {head: self.end(number) for number, head in self.heads.items()}
        self.wait(lambda: all(self.said(head) == words for head, words in ends.items()), seconds)
        for head in ends:
            self.wait_said(head, "passed", "opam-ci / lint")
            self.wait_said(head, "success: No reverse", "opam-ci / revdeps")

    # What the index and Prometheus say.

    @contextmanager
    def index(self) -> Iterator[Index]:
        opened = Index.open(self.index_url)
        try:
            yield opened
        finally:
            opened.close()

    def attempts(self) -> list[AttemptRecord]:
        """Returns all attempts of all pull requests, as they began."""
        with self.index() as index:
            return list(index.attempts(place=_EVERYTHING).items)[::-1]

    def jobs(self) -> list[JobRecord]:
        with self.index() as index:
            return list(index.jobs(place=_EVERYTHING).items)

    def decided(self) -> set[str]:
        """Returns the heads of which the index has every job, and each with an outcome."""
        known = [each.revision.head for each in self.jobs() if each.status.outcome is not None]
        heads = self.heads.items()
        return {head for number, head in heads if known.count(head) == self.jobs_of(number)}

    def incidents(self) -> list[Incident]:
        with self.index() as index:
            return list(index.incidents().items)

    def faults(self) -> list[AttemptRecord]:
        """Returns the attempts that were lost to the CI."""
        return [each for each in self.attempts() if each.standing is Standing.ERRORED]

    def number(self, expression: str) -> float:
        """Evaluates an expression that has one value; none is 0."""
        found = self.prometheus.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else 0.0

    def counted(self, expression: str, wanted: float, seconds: float = 60) -> None:
        """Waits until Prometheus counts that many of something."""
        end = time.monotonic() + seconds
        while (number := self.number(expression)) != wanted:
            if time.monotonic() > end:
                more = self.prometheus.query(
                    "sum by (pool, kind, outcome) (opam_ci_attempts_total) > 0"
                )
                told = [(each["metric"], each["value"][1]) for each in more]
                pytest.fail(f"{expression} is {number} and not {wanted}: {told}")
            time.sleep(0.2)

    @contextmanager
    def told_late(self) -> Iterator[None]:
        """Notes that for the time of a block GitHub may be told late of what happens."""
        begin = datetime.now(UTC)
        yield
        self.away.append((begin, datetime.now(UTC)))

    def truth(self) -> Truth:
        return Truth.of(
            self.jobs(), self.attempts(), maximum=self.maximum, broken=self.broken, away=self.away
        )

    # The machines.

    def start_machines(
        self,
        *words: str,
        special: Mapping[int, Mapping[str, str]] | None = None,
        before: Callable[[Machine], Sequence[str]] = lambda _machine: (),
    ) -> None:
        """Starts all build workers at once.

        Args:
            words: For each.
            special: Environment variables of some, by number.
            before: Programs that become the worker.
        """
        for number, machine in enumerate(self.machines):
            environment = self.worker_environment(
                OPAM_CI_HOME=str(machine.home), **(special or {}).get(number, {})
            )
            machine.start(words, environment, before(machine))
        self.wait(lambda: all(machine.is_ready() for machine in self.machines), 120)

    def wait_healthy(self, seconds: float = 90) -> None:
        """Waits until each build worker takes jobs."""
        takes = {"healthy", "probation"}
        self.wait(lambda: all(each.health()["state"] in takes for each in self.machines), seconds)

    def stop(self) -> None:
        for machine in self.machines:
            if hasattr(machine, "process"):
                machine.stop()
        super().stop()


@contextmanager
def fleet_world(
    home: Path, *, index: postgres.Postgres | None = None, maximum: int = 3, scraped: int = 2
) -> Iterator[FleetWorld]:
    """A world in which everything runs but the build workers: `start_machines` starts these.

    Args:
        home: An empty directory.
        index: Where the index is; without, it is a file.
        maximum: Attempts of a job in a round.
        scraped: Seconds between two scrapes of Prometheus.
    """
    require()
    if missing := debian.missing():
        pytest.skip(f"not installed: {', '.join(missing)}; `./opam-ci test` installs them")
    fake = LiveGitHub()
    with ExitStack() as stack:
        recorder = Recorder(github_with_troubles(fake))
        world = FleetWorld(home, stack.enter_context(served(recorder)), fake, maximum)
        world.recorder = recorder
        if index is not None:
            world.environment["OPAM_CI_INDEX"] = index.url
        stack.callback(world.stop)
        world.start_temporal()
        world.serve()
        targets = [f"127.0.0.1:{each.port}" for each in world.machines]
        targets.append(f"127.0.0.1:{world.metrics_port}")
        scraping = prometheus(home / "prometheus", free_port(), targets, interval=f"{scraped}s")
        world.prometheus = stack.enter_context(scraping)
        yield world
