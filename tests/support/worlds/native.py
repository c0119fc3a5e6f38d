"""A machine for the native runner: a root file system with opam, and processes of its own.

The machine that runs the tests has no opam. So the runner's process runs within Debian's root file
system, as an ordinary user, or as root, who has users for jobs. Run as a program, this file is
what runs there.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import psutil

from opam_ci.clients.runners.native import NativeRunner
from opam_ci.clients.runners.rootfs import RootfsRunner, RootfsSettings
from opam_ci.clients.runners.settings import JobLimits, NativeSettings
from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import BuildReport, BuildSpec
from opam_ci.core.jobs.outcome import label
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.model import EMBEDDED, Runner
from tests.support.worlds.rootfs import COMPILER, Artifacts, Log, World

CHECKOUT = Path(__file__).resolve().parents[3]
HOME = Path("/srv/ci")
USER = 1000
WORKERS_OWN = "secret-of-the-worker"
SHARED = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - what every user may write to

PLATFORM = EMBEDDED.model_copy(update={"runner": Runner.NATIVE})

_BASE = Path(sys.base_prefix)
_OF_THE_SYSTEM = str(_BASE) == "/usr"
_INSIDE = Path("/python") if _OF_THE_SYSTEM else _BASE
_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = (
    # Where Debian's Python, and any other one, looks without a virtual environment.
    _INSIDE / "lib/python3/dist-packages"
    if _OF_THE_SYSTEM
    else _INSIDE / "lib" / _NAME / "site-packages"
)
PYTHON = _INSIDE / "bin" / _NAME
"""The tests' own Python, at a place of the machine where it finds its modules."""

_WITH_PROC = 'mount -t proc proc "$0" && exec "$@"'
"""bubblewrap covers parts of root's /proc, and opam's sandbox may mount one only where a whole one
is visible."""


class NativeJob(Frozen):
    """A job, and when it is cancelled.

    Attributes:
        spec: The job.
        cancel_at: It is cancelled when its log has this.
    """

    spec: BuildSpec
    cancel_at: str | None = None


class NativeResult(Frozen):
    """What came of a job.

    Attributes:
        report: The runner's, None if it was cancelled.
        outcome: The judge's label, or the error of the runner.
        log: Its log.
        seconds: Wall time; of a cancelled job, from the cancellation on.
        ended_at: When it ended, on some clock.
        left: Command lines of the processes that were left on the machine.
        files: Files that were left in the slots and in /tmp.
    """

    report: BuildReport | None
    outcome: str
    log: str
    seconds: float
    ended_at: float
    left: tuple[str, ...]
    files: tuple[str, ...]


class Machine(World):
    """A machine whose jobs run in one go; implements what `World` makes specs with."""

    def __init__(
        self,
        directory: Path,
        *,
        users: tuple[str, ...] = (),
        limits: JobLimits | None = None,
        bubblewrap: bool = True,
    ) -> None:
        self.directory = directory
        self._bubblewrap = bubblewrap
        for path in (directory, directory / "artifacts", directory / "proc"):
            path.mkdir(parents=True)
            path.chmod(0o755)
        self.platform, self.base = PLATFORM, COMPILER
        self.artifacts = Artifacts(directory / "artifacts")
        self.settings = NativeSettings(
            home=HOME / "cache",
            min_free_bytes=0,
            users=users,
            same_user=not users,
            limits=limits or JobLimits(),
            slots=max(1, len(users)),
        )

    def job(self, *words: Any, cancel_at: str | None = None, **named: Any) -> NativeJob:
        """Makes a job; the arguments are those of `spec`."""
        spec = self.spec(*words, **named).model_copy(update={"platform": PLATFORM})
        return NativeJob(spec=spec, cancel_at=cancel_at)

    def run(self, *jobs: NativeJob, at_once: bool = False) -> list[NativeResult]:
        """Runs jobs on the machine, one after the other or at once."""
        orders = {
            "settings": self.settings.model_dump(mode="json"),
            "jobs": [job.model_dump(mode="json") for job in jobs],
            "at_once": at_once,
        }
        (self.directory / "orders.json").write_text(json.dumps(orders))
        done = subprocess.run(
            [*self._entered(), str(PYTHON), "-m", "tests.support.worlds.native"],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        results = json.loads((self.directory / "results.json").read_text())
        return [NativeResult.model_validate(each) for each in results]

    def _entered(self) -> list[str]:
        image = asyncio.run(RootfsRunner(RootfsSettings(), self.artifacts).prepare(print))
        shown = {_BASE: _BASE, CHECKOUT: CHECKOUT}
        if _OF_THE_SYSTEM:  # the machine has a /usr of its own
            del shown[_BASE]
            shown |= {_BASE / path: _INSIDE / path for path in (f"bin/{_NAME}", f"lib/{_NAME}")}
        shown[Path(sysconfig.get_path("purelib"))] = _PACKAGES
        proc = str(self.directory / "proc")
        words = [
            *("bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
            *(word for name in ("usr", "etc", "var") for word in _shown(image.root, name)),
            *("--symlink", "usr/bin", "/bin", "--symlink", "usr/sbin", "/sbin"),
            *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
            *("--proc", "/proc", "--dev", "/dev"),
            # Kills for memory in this group are told from those of its neighbours.
            *("--ro-bind-try", "/sys/fs/cgroup", "/sys/fs/cgroup"),
            *(word for path in SHARED for word in ("--perms", "1777", "--tmpfs", path)),
            *(word for path, to in shown.items() for word in ("--ro-bind", str(path), str(to))),
            *("--perms", "0755", "--dir", str(HOME.parent)),
            *("--bind", str(self.directory), str(HOME), "--chdir", str(HOME), "--clearenv"),
            *(
                "--setenv",
                "PATH",
                self._path(image.root),
                "--setenv",
                "PYTHONPATH",
                str(CHECKOUT),
            ),
            *("--setenv", "GITHUB_TOKEN", WORKERS_OWN),
            *("--setenv", "HOME", str(HOME), "--setenv", "LANG", "C.UTF-8"),
        ]
        if not self.settings.users:
            return [*words, "--unshare-user", "--uid", str(USER), "--gid", str(USER)]
        words += ["--cap-add", "ALL", "--bind", proc, "/run/proc"]
        return [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _WITH_PROC,
            proc,
            *words,
        ]

    def _path(self, root: Path) -> str:
        if self._bubblewrap:
            return "/usr/bin:/usr/sbin"
        programs = self.directory / "bin"
        programs.mkdir(exist_ok=True)
        for found in (*root.glob("usr/sbin/*"), *root.glob("usr/bin/*")):
            if found.name != "bwrap" and not (programs / found.name).is_symlink():
                (programs / found.name).symlink_to(f"/{found.relative_to(root)}")
        return str(HOME / "bin")


def _shown(root: Path, name: str) -> tuple[str, str, str]:
    return ("--ro-bind", str(root / name), f"/{name}")


async def _run(runner: NativeRunner, job: NativeJob) -> NativeResult:
    log = Log()
    began_at = time.monotonic()
    running = asyncio.create_task(runner.run(job.spec, log, lambda _: None))
    if job.cancel_at is not None:
        while job.cancel_at.encode() not in log.data and not running.done():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)
        began_at = time.monotonic()
        running.cancel()
    report, outcome = None, "cancelled"
    with contextlib.suppress(asyncio.CancelledError):
        try:
            report = await running
            outcome = label(judge(report.facts, report.logs))
        except Exception as error:  # noqa: BLE001 - the test sees it
            outcome = f"{type(error).__name__}: {error}"
    return NativeResult(
        report=report,
        outcome=outcome,
        log=log.data.decode(errors="replace"),
        seconds=time.monotonic() - began_at,
        ended_at=time.monotonic(),
        left=tuple(_others()),
        files=tuple(str(path) for path in _written()),
    )


def _others() -> list[str]:
    """Returns the command lines of all processes but this one and the machine's first."""
    mine = {1, os.getpid(), os.getppid()}
    found = psutil.process_iter(["cmdline", "status"])
    return [
        " ".join(each.info["cmdline"] or ())
        for each in found
        if each.pid not in mine and each.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _written() -> list[Path]:
    shared = (path for each in SHARED for path in Path(each).iterdir())
    slots = (HOME / "cache/native").glob("*/home")
    return [*slots, *(path for path in shared if path not in CHECKOUT.parents)]


async def _main() -> None:
    orders: dict[str, Any] = json.loads((HOME / "orders.json").read_text())
    settings = NativeSettings.model_validate(orders["settings"])
    runner = NativeRunner(settings, Artifacts(HOME / "artifacts"))
    await runner.require()
    assert await runner.sweep() == 0
    await runner.preflight()
    jobs = [NativeJob.model_validate(each) for each in orders["jobs"]]
    if orders["at_once"]:
        results = await asyncio.gather(*(_run(runner, job) for job in jobs))
    else:
        results = [await _run(runner, job) for job in jobs]
    text = json.dumps([result.model_dump(mode="json") for result in results])
    (HOME / "results.json").write_text(text)


if __name__ == "__main__":
    asyncio.run(_main())
