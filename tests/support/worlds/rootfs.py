"""A tiny opam repository of our own, and what a test needs to build from it."""

import gzip
import hashlib
import io
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from opam_ci.clients.platform_files import load_platforms
from opam_ci.clients.runners.base import MachineRunner
from opam_ci.clients.runners.images.image import Image
from opam_ci.clients.runners.images.rootfs_exec import RootfsExecutor
from opam_ci.clients.runners.images.scratch import JobRoots
from opam_ci.clients.runners.phases import steps
from opam_ci.clients.runners.phases.executor import Executor
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings, default_home
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.cgroups import Cgroups
from opam_ci.clients.runners.sandbox.disk import DiskWatch
from opam_ci.clients.runners.sandbox.process import ProcessResult, run_process
from opam_ci.clients.runners.sandbox.user_namespace import job_namespace
from opam_ci.clients.runners.settings import Endpoint, JobLimits
from opam_ci.core.jobs.build import (
    BuildProgress,
    BuildReport,
    BuildSpec,
    PhaseTimeouts,
    RepositoryRef,
)
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.model import EMBEDDED, Platform, Runner

PLATFORMS = [
    each
    for one in load_platforms(None).platforms
    for each in one.choices
    if each.runner is Runner.ROOTFS
]
"""All platforms with root file systems."""

ROOTS = "OPAM_CI_TEST_ROOTS"
"""Variable that is `all` where tests may make the roots of all of them; each takes 1 GB."""

LOOPBACK = (Endpoint("127.0.0.1"),)
"""What builds of tests may reach besides the internet: the tests' own servers."""


_HEADER = """opam-version: "2.0"
synopsis: "A package of a test"
maintainer: "nobody@example.org"
authors: "nobody"
homepage: "https://example.org"
bug-reports: "https://example.org"
"""


def compiler(version: str) -> dict[str, str]:
    """Returns the packages of Debian's own OCaml."""
    available = f'flags: compiler\navailable: sys-ocaml-version = "{version}"\n'
    return {
        f"ocaml-system.{version}": available,
        f"ocaml.{version}": 'depends: ["ocaml-system" {= version}]\n',
    }


COMPILER = compiler("5.3.0")

CAN_LIMIT = not {"memory", "pids"} & set(Cgroups.here(JobLimits(memory_bytes=1 << 30)).missing)
"""Whether this user may make control groups here: an ordinary one may where it was delegated."""

needs_groups = pytest.mark.skipif(not CAN_LIMIT, reason="this user may make no control groups here")

FAST = PhaseTimeouts(
    **dict.fromkeys(
        ("setup", "solve", "depexts", "fetch", "dependencies", "build", "test"),
        timedelta(seconds=60),
    )
)


def archive(files: Mapping[str, str]) -> bytes:
    """Makes a `.tar.gz`."""
    data = io.BytesIO()
    # The same files make the same bytes, so that the base layer is made once a module.
    with (
        gzip.GzipFile(fileobj=data, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return data.getvalue()


def repository(packages: Mapping[str, str]) -> bytes:
    """Makes the archive of an opam repository from the bodies of opam files."""
    files = {"repo": 'opam-version: "2.0"\n'}
    for name, body in packages.items():
        files[f"packages/{name.split('.', 1)[0]}/{name}/opam"] = _HEADER + body
    return archive(files)


class Artifacts:
    """A store that is a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, data: bytes) -> str:
        key = hashlib.sha256(data).hexdigest()
        (self.directory / key).write_bytes(data)
        return key

    async def fetch(self, key: str, target: Path) -> None:
        try:
            target.write_bytes((self.directory / key).read_bytes())  # noqa: ASYNC240 - small files of a test
        except FileNotFoundError as error:
            raise InfrastructureError(f"no artifact {key}", cause=Cause.STORAGE) from error


class Log:
    """A log in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data

    @property
    def text(self) -> str:
        return self.data.decode()


class World:
    """A runner over its own layers and job roots, and the machine's shared image."""

    def __init__(
        self,
        directory: Path,
        *,
        keep_layers: int = 4,
        limits: JobLimits | None = None,
        network_allow: tuple[Endpoint, ...] = LOOPBACK,
        platform: Platform = EMBEDDED,
    ) -> None:
        self.platform = platform
        self.base = COMPILER
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        images = default_home() / "images"
        images.mkdir(parents=True, exist_ok=True)
        (self.home / "images").symlink_to(images)
        (directory / "artifacts").mkdir()
        self.artifacts = Artifacts(directory / "artifacts")
        self.limits = limits or JobLimits()
        self.runner: MachineRunner = RootfsRunner(
            RootfsSettings(
                home=self.home,
                keep_layers=keep_layers,
                limits=self.limits,
                network_allow=network_allow,
                platform=platform,
            ),
            self.artifacts,
        )

    def spec(  # noqa: PLR0913 - what a job consists of, most of it named
        self,
        packages: Mapping[str, str],
        job: str,
        *,
        kind: JobKind = JobKind.BUILD,
        revdep: str | None = None,
        timeouts: PhaseTimeouts = FAST,
        mirrors: tuple[str, ...] = (),
    ) -> BuildSpec:
        base = self.artifacts.put(repository(self.base))
        return BuildSpec(
            job=Job(platform=self.platform.name, package=job, kind=kind, revdep=revdep),
            platform=self.platform,
            repository=RepositoryRef(
                base_commit=hashlib.sha1(base.encode(), usedforsecurity=False).hexdigest(),
                base_archive=base,
                overlay_archive=self.artifacts.put(repository(packages)),
                overlay_packages=len(packages),
                package_count=len({*self.base, *packages}),
            ),
            timeouts=timeouts,
            archive_mirrors=mirrors,
        )

    async def build(  # noqa: PLR0913 - what a job consists of, most of it named
        self,
        packages: Mapping[str, str],
        job: str,
        *,
        kind: JobKind = JobKind.BUILD,
        revdep: str | None = None,
        timeouts: PhaseTimeouts = FAST,
        mirrors: tuple[str, ...] = (),
    ) -> tuple[BuildReport, Log]:
        log = Log()
        spec = self.spec(
            packages, job, kind=kind, revdep=revdep, timeouts=timeouts, mirrors=mirrors
        )
        return await self.runner.run(spec, log, lambda _: None), log

    @asynccontextmanager
    async def executor(self) -> AsyncIterator[RootfsExecutor]:
        """A build root over the image alone, as a job has it."""
        image = await self.runner.prepare(lambda _: None)
        assert isinstance(image, Image)
        rights = sandbox.rights()
        async with (
            JobRoots(self.home / "jobs", rights).open((image.root,)) as root,
            Cgroups.here(self.limits).open(root.upper.parent) as groups,
            job_namespace(rights) as inner,
        ):
            watching = inner if rights.prefix else rights
            disk = DiskWatch(root.upper, self.limits, watching, groups.processes)
            yield RootfsExecutor(
                root,
                Mirrors(),
                inner,
                groups=groups,
                disk=disk,
                personality=self.platform.personality,
            )

    async def shell(self, packages: Mapping[str, str], commands: Sequence[str]) -> str:
        """Runs commands as root in the clean root file system, beside the merged repository.

        Returns:
            What the last one said.
        """
        image = await self.runner.prepare(lambda _: None)
        assert isinstance(image, Image)
        roots = JobRoots(self.home / "jobs", sandbox.rights())
        said = bytearray()
        merged = self.artifacts.directory / self.artifacts.put(
            repository({**self.base, **packages})
        )
        *before, wanted = commands
        script = "\n".join(["set -e", *before, "echo @@@", wanted])
        async with roots.open((image.root,)) as root:
            for step in (
                steps.unpack("/home/opam/repository"),
                steps.Step(("sh", "-c", script), as_root=True),
            ):
                # Not the runner's environment: the commands must suffice.
                surroundings = replace(
                    steps.confined(step, Mirrors()), environment=sandbox.environment()
                )
                with merged.open("rb") as stream:
                    ended = await run_process(
                        sandbox.confine(root, surroundings, sandbox.rights()),
                        output=said.extend,
                        time_limit=120,
                        stdin=stream,
                    )
                assert ended.ok, said.decode()
        return said.decode().rpartition("@@@\n")[2]

    def job_roots(self) -> list[Path]:
        return list((self.home / "jobs").glob("job-*"))


async def run(
    executor: Executor,
    script: str,
    stdin: str = "",
    *,
    as_root: bool = False,
    network: bool = False,
) -> tuple[ProcessResult, str]:
    """Runs a script in a build root, in the phase `build`; returns how it ended and its output."""
    output = bytearray()
    with tempfile.TemporaryFile() as file:
        file.write(stdin.encode())
        file.seek(0)
        ended = await executor.run(
            steps.Step(("sh", "-c", script), as_root=as_root, network=network),
            output=output.extend,
            phase=Phase.BUILD,
            time_limit=120,
            stdin=file,
        )
    return ended, output.decode(errors="replace")


class Progress:
    """Collects progress."""

    def __init__(self) -> None:
        self.seen: list[BuildProgress] = []

    def __call__(self, progress: BuildProgress) -> None:
        self.seen.append(progress)


def overwrite(path: Path, text: str) -> None:
    """Writes to a file of a layer, which for an ordinary user belongs to a subordinate id."""
    subprocess.run(
        [*sandbox.rights().prefix, "sh", "-c", 'cat > "$1"', "sh", path],
        input=text.encode(),
        check=True,
    )


def last(report: BuildReport) -> PhaseRun:
    run = report.facts.last
    assert run is not None
    return run


def phase_names(report: BuildReport) -> list[Phase]:
    return [run.phase for run in report.facts.phases]


def processes_with(word: str) -> list[str]:
    """Command lines of living processes that have a word as an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word.encode() in words:
            found.append(b" ".join(words).decode(errors="replace"))
    return found


def mounts_below(directory: Path) -> list[str]:
    """Mounts below a directory that this process sees."""
    listing = subprocess.run(
        ["findmnt", "--list", "--noheadings", "--output", "TARGET"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [line for line in listing.splitlines() if line.startswith(str(directory))]


class Server:
    """An HTTP server on the loopback interface that counts what it is asked.

    Attributes:
        once: What it answers the first time, in place of the file.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.once: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.agents: set[str | None] = set()
        world = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                world.asked.append(self.path)
                world.agents.add(self.headers["User-Agent"])
                data = world.once.pop(self.path, world.files.get(self.path))
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data or b"")

            do_HEAD = do_GET  # noqa: N815 - the base's name; zypper looks before it downloads

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def source(self, path: str) -> str:
        """The `url` section of an opam file for one of the files."""
        digest = hashlib.sha256(self.files[path]).hexdigest()
        return f'url {{ src: "{self.url}{path}" checksum: "sha256={digest}" }}\n'

    @contextmanager
    def running(self) -> Iterator["Server"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
