"""System packages of other distributions, by their own package managers, in real containers.

dnf, zypper and pacman are packages of Debian: with another /etc/os-release, opam takes a Debian
for their distribution. Their repository is of the test, on the loopback interface.
"""

import asyncio
import fcntl
import hashlib
import io
import os
import shlex
import shutil
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from opam_ci.clients.runners.container import ContainerRunner
from opam_ci.clients.runners.containers.box import Container, open_container
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.containers.exec import ContainerExecutor
from opam_ci.clients.runners.containers.layer import ContainerLayer
from opam_ci.clients.runners.images import apt_sources
from opam_ci.clients.runners.images.apt_sources import Archives
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.phases.system_packages import find_manager, install
from opam_ci.clients.runners.sandbox.bubblewrap import proxy_environment
from opam_ci.clients.runners.sandbox.network import ContainerNetwork
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.clients.runners.settings import ContainerSettings
from opam_ci.core.classify import judge
from opam_ci.core.classify.preparation import SYSTEM_PACKAGES_KNOWN
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Errored, Passed, Skipped, label
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.samples.drills import closed_port
from tests.support.worlds.container import IMAGE, ContainerWorld, Storage
from tests.support.worlds.rootfs import LOOPBACK, Server, archive, run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the image is made with files of many users"),
]

_LOCAL = ContainerNetwork(None, LOOPBACK)

MANAGERS = "localhost/opam-ci-test:managers"

_PROGRAMS = "dnf zypper pacman-package-manager rpm createrepo-c"

_SPEC = """Name: libfoo-devel
Version: 1
Release: 1
Summary: A package of a test
License: MIT
BuildArch: noarch
%define __os_install_post %{nil}
%description
A package of a test.
%install
mkdir -p %{buildroot}/usr/share/libfoo
echo rpm > %{buildroot}/usr/share/libfoo/here
%files
/usr/share/libfoo
"""

_CONTROL = """Package: libfoo-devel
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: A package of a test
"""

_MAKE = """cd /var/tmp && mkdir -p made/rpm made/deb x/DEBIAN x/usr/share/libfoo
printf '%s' "$SPEC" > foo.spec && printf '%s' "$CONTROL" > x/DEBIAN/control
rpmbuild -bb --define "_topdir $PWD/top" --define "_rpmdir $PWD/made/rpm" foo.spec 2>&1
createrepo_c made/rpm 2>&1
echo deb > x/usr/share/libfoo/here && cd made
dpkg-deb --root-owner-group --build ../x deb/libfoo-devel.deb 2>&1
{ cat ../x/DEBIAN/control; echo "Filename: deb/libfoo-devel.deb"
  echo "Size: $(stat -c %s deb/libfoo-devel.deb)"
  echo "SHA256: $(sha256sum deb/libfoo-devel.deb | cut -d' ' -f1)"; } > deb/Packages
{ echo "Date: $(date -uR)"; echo SHA256:
  echo " $(sha256sum deb/Packages | cut -d' ' -f1) $(stat -c %s deb/Packages) Packages"
} > deb/Release"""


@dataclass(frozen=True)
class Distribution:
    """A distribution, by what opam and its package manager read.

    Attributes:
        release: /etc/os-release.
        id: opam's `os-distribution` there.
        family: Its `os-family`.
        program: The package manager.
        path: Where its repository is on the server.
        settings: File and content that names the repository.
        missing: Depexts of jobs that find that there is no such package.
        missing_in: The phase that does.
        held: A file that says that process 1 of a container uses the manager, with its content
            (None if a lock of the kernel on it says so), and the rule that decides then.
        late: Whether its mirror is down when the layer is made.
    """

    release: str
    id: str
    family: str
    program: str
    path: str
    settings: tuple[str, str]
    missing: tuple[str, ...]
    missing_in: Phase
    held: tuple[str, str | None, str]
    late: bool = False


_RPM = "[test]\nname=test\nenabled=1\ngpgcheck=0\nbaseurl={url}/rpm\n"

DISTRIBUTIONS = {
    "debian": Distribution(
        "ID=debian\nVERSION_ID=13\n",
        "debian",
        "debian",
        "apt-get",
        "/deb",
        ("/etc/apt/sources.list", "deb [trusted=yes] {url} deb/\n"),
        # As in test_drills_builds.py.
        (),
        Phase.SOLVE,
        ("/var/lib/dpkg/lock-frontend", None, "apt-failed"),
    ),
    "fedora": Distribution(
        "ID=fedora\nVERSION_ID=43\n",
        "fedora",
        "fedora",
        "dnf",
        "/rpm",
        ("/etc/yum.repos.d/test.repo", _RPM),
        ('["libbar-devel"]', '["--root=/x"]'),
        Phase.DEPEXTS,
        # It waits, up to the time limit.
        ("/var/lib/dnf/rpmdb_lock.pid", "1", "timeout-depexts"),
    ),
    "opensuse": Distribution(
        'ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="16.0"\n',
        "opensuse-leap",
        "suse",
        "zypper",
        "/rpm",
        ("/etc/zypp/repos.d/test.repo", _RPM),
        # opam 2.3 searches with zypper; newer ones leave that to the installation.
        ('["libbar-devel"]',),
        Phase.SOLVE,
        ("/run/zypp.pid", "1", "rpm-failed"),
    ),
    "archlinux": Distribution(
        "ID=arch\n",
        "arch",
        "arch",
        "pacman",
        "/arch",
        (
            "/etc/pacman.conf",
            "[options]\nArchitecture = auto\nSigLevel = Never\n[test]\nServer = {url}/arch\n",
        ),
        ('["libbar-devel"]',),
        Phase.SOLVE,
        ("/var/lib/pacman/db.lck", "", "pacman-failed"),
        late=True,
    ),
}


def arch_repository() -> dict[str, bytes]:
    """Makes the files of a pacman repository with one package: see repo-add(8)."""
    info = {"pkgname": "libfoo-devel", "pkgver": "1-1", "arch": "any", "size": "5"}
    package = archive(
        {
            ".PKGINFO": "".join(f"{key} = {value}\n" for key, value in info.items()),
            "usr/share/libfoo/here": "arch\n",
        }
    )
    described = {
        "FILENAME": "libfoo-devel-1-1-any.pkg.tar.gz",
        "NAME": "libfoo-devel",
        "VERSION": "1-1",
        "CSIZE": str(len(package)),
        "ISIZE": "5",
        "SHA256SUM": hashlib.sha256(package).hexdigest(),
        "ARCH": "any",
    }
    description = "".join(f"%{key}%\n{value}\n\n" for key, value in described.items())
    return {
        f"/arch/{described['FILENAME']}": package,
        "/arch/test.db": archive({"libfoo-devel-1-1/desc": description}),
    }


class DistributionWorld(ContainerWorld):
    """A container runner whose image is one of these distributions.

    It has no options of the machine's apt, whose proxy would be asked for the test's repository.
    """

    def __init__(self, directory: Path, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory)
        with monkeypatch.context() as patched:
            patched.setattr(apt_sources, "read_host", Archives)
            self.runner = ContainerRunner(
                ContainerSettings(home=self.home, image=image, network_allow=LOOPBACK),
                self.artifacts,
            )


@asynccontextmanager
async def container(
    engine: Engine, image: str, network: ContainerNetwork = _LOCAL
) -> AsyncIterator[tuple[Container, ContainerExecutor]]:
    """Starts a container without limits, as the making of a layer does."""
    async with open_container(
        engine,
        image,
        f"opam-ci-test-{time.monotonic_ns()}",
        network=network,
        mirrors=Mirrors(),
        limits=None,
    ) as box:
        yield box, ContainerExecutor(box, Mirrors())


async def changed(engine: Engine, image: str, name: str, script: str, stdin: str = "") -> None:
    """Makes an image from another one by a script of root without network."""
    async with container(engine, image) as (box, executor):
        ended, output = await run(executor, script, stdin, as_root=True)
        assert ended.ok, output
        await engine.call("commit", "--pause=false", box.name, name, time_limit=120)


async def made(storage: Storage, server: Server, name: str) -> str:
    """Returns the image of a distribution, making it if need be."""
    each = DISTRIBUTIONS[name]
    image = f"localhost/opam-ci-test:system-{name}"
    if image not in storage.podman("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        file, content = each.settings
        script = (
            "rm -rf /etc/apt/sources.list* /var/lib/apt/lists/*; "
            "mkdir -p /etc/apt /var/lib/apt/lists; "
            f"printf '{each.release}' > /etc/os-release; mkdir -p $(dirname {file}); cat > {file}"
        )
        await changed(Engine("podman"), MANAGERS, image, script, content.format(url=server.url))
    return image


async def make_managers(engine: Engine) -> dict[str, bytes]:
    """Installs the managers, and makes repositories with their own programs."""
    archives = apt_sources.read_host()
    options = " ".join(f"-o{key}={value}" for key, value in archives.options)
    apt = f"apt-get {options} -qq"
    script = f"{apt} update && {apt} install -yy --no-install-recommends {_PROGRAMS} 2>&1"
    make = f"set -e; SPEC={shlex.quote(_SPEC)}; CONTROL={shlex.quote(_CONTROL)}; {_MAKE}"
    network = _LOCAL.and_to((*archives.urls, *proxy_environment().values()))
    async with container(engine, IMAGE, network) as (box, executor):
        for command, online in ((script, True), (make, False)):
            ended, output = await run(executor, command, as_root=True, network=online)
            assert ended.ok, output
        packed = await engine.call("exec", box.name, "tar", "-C/var/tmp/made", "-c", ".")
        await engine.call("commit", "--pause=false", box.name, MANAGERS, time_limit=120)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {
            member.name.removeprefix("."): file.read()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    # Short: podman puts sockets below it.
    found = Storage(tmp_path_factory.mktemp("managers"))
    try:
        found.import_image()
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="module")
def server(storage: Storage) -> Iterator[Server]:
    assert storage.directory.exists()
    files = asyncio.run(make_managers(Engine("podman"))) | arch_repository()
    with Server(files).running() as running:
        yield running


async def outcome_of(
    world: DistributionWorld, depexts: str, *, build: str = ""
) -> tuple[str, str, Phase | None, str]:
    """Returns verdict, rule and phase of a job, and its log."""
    packages = {"asked.1": f"depexts: {depexts}\n{build}"}
    report, log = await world.build(packages, "asked.1")
    outcome = judge(report.facts, report.logs)
    assert isinstance(outcome, Errored | Passed | Skipped), log.text
    return label(outcome), outcome.evidence.rule, outcome.evidence.phase, log.text


async def verdict_on(
    executor: ContainerExecutor, package: str, limit: float = 60
) -> tuple[str, str]:
    """Returns verdict and rule on an installation by the command of a job alone."""
    output = bytearray()

    async def step(step: Step, kept: bytearray) -> ProcessResult:
        return await executor.run(step, output=kept.extend, phase=Phase.DEPEXTS, time_limit=limit)

    manager, _ = await find_manager(step)
    assert manager is not None
    ended = await step(install(manager, (package,), ())[0], output)
    phase = PhaseRun(
        phase=Phase.DEPEXTS,
        exit_code=ended.exit_code,
        signal=ended.signal,
        timed_out=ended.timed_out,
        duration=1,
        log_start=0,
        log_end=len(output),
    )
    job = Job(platform=EMBEDDED.name, package="asked.1", kind=JobKind.BUILD)
    known = manager.unknown_exit is None or ended.exit_code != manager.unknown_exit
    facts = BuildFacts(job=job, phases=(phase,), probes={SYSTEM_PACKAGES_KNOWN: known})
    # An exit code that says it all needs no words.
    outcome = judge(facts, {Phase.DEPEXTS: output.decode() if known else ""})
    assert isinstance(outcome, Errored | Skipped), output.decode()
    return label(outcome), outcome.evidence.rule


@contextmanager
def gone(server: Server, path: str) -> Iterator[None]:
    """Has a server answer 404 below a path."""
    lost = {each: server.files.pop(each) for each in list(server.files) if each.startswith(path)}
    try:
        yield
    finally:
        server.files.update(lost)


@contextmanager
def locked(box: Container, path: str) -> Iterator[None]:
    """Holds a lock of the kernel on a file of a container, as dpkg does, by a process outside."""
    with Path(f"/proc/{box.pid}/root{path}").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("name", DISTRIBUTIONS)
async def test_system_packages_come_from_the_distributions_own_manager(
    name: str, storage: Storage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = DISTRIBUTIONS[name]
    image = await made(storage, server, name)
    world = DistributionWorld(storage.directory / name, image, monkeypatch)
    there = f'[["libfoo-devel"] {{os-family = "{each.family}" & os-distribution = "{each.id}"}}]'

    if each.late:
        with gone(server, each.path):
            # The solver asks pacman, which has no lists: that proves nothing.
            verdict, rule, phase, log = await outcome_of(world, there)
            assert (verdict, phase) == ("errored(package_mirror)", Phase.SOLVE), (rule, log)
            assert (await outcome_of(world, "[]"))[0] == "passed"
        # The same layer serves, once the mirror is back.
    # It arrives, if opam takes the image for that distribution, and only then.
    looks = 'build: ["grep" "." "/usr/share/libfoo/here"]\n'
    verdict, _, _, log = await outcome_of(world, there, build=looks)
    assert verdict == "passed", log
    assert f"{each.program} " in log
    # There is no such package: of some managers the solver knows that.
    for depexts in each.missing:
        verdict, rule, phase, log = await outcome_of(world, depexts)
        assert (verdict, phase) == ("skipped(depext_unavailable)", each.missing_in), (rule, log)

    (described,) = (world.home / "container-layers").glob("*.json")
    layer = ContainerLayer.model_validate_json(described.read_text()).image
    async with container(Engine("podman"), layer) as (box, executor):
        if each.late:
            ended, output = await run(executor, "pacman -Sy", as_root=True, network=True)
            assert ended.ok, output
        # What newer opams leave to the manager.
        verdict, rule = await verdict_on(executor, "libbar-devel")
        assert verdict == "skipped(depext_unavailable)", rule
        # No network: the worker's own proxy, which phases with network get, does not answer.
        with monkeypatch.context() as offline:
            offline.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
            offline.delenv("no_proxy", raising=False)
            offline.delenv("NO_PROXY", raising=False)
            verdict, rule = await verdict_on(executor, "libfoo-devel")
        assert verdict == "errored(network)", rule
        # The mirror lacks what its lists promise.
        with gone(server, each.path):
            verdict, rule = await verdict_on(executor, "libfoo-devel")
        assert verdict == "errored(package_mirror)", rule
        lock, holder, expected = each.held
        script = f"mkdir -p $(dirname {lock}) && printf '{holder or ''}' > {lock}"
        ended, output = await run(executor, script, as_root=True)
        assert ended.ok, output
        with locked(box, lock) if holder is None else nullcontext():
            found = await verdict_on(executor, "libfoo-devel", limit=5)
        assert found == ("errored(package_mirror)", expected)
