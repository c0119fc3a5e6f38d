"""The opam that lints: one version on every machine (docs/adr/0019-one-opam-lints.md)."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from opam_ci.clients.runners.images import apt_sources as aptsources
from opam_ci.clients.runners.images.image import Image, ImageStore
from opam_ci.clients.runners.preflight import namespace_problem
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.process import Command, run_process
from opam_ci.clients.threads import LINT
from opam_ci.core.errors import UsageError
from opam_ci.core.lint.opam_codes import OPAM_VERSION
from opam_ci.core.platforms.debian import embedded_root

SETTING: Final = "OPAM_CI_LINT_OPAM"
"""Variable that names an opam of the machine to lint with."""

FILES: Final = "files"
"""Directory below the scratch directory in which opam starts."""

_SCRATCH: Final = "/tmp"  # noqa: S108 - inside of the sandbox, where nobody else is
_PROBE_TIMEOUT: Final = 30.0


def new_scratch() -> Path:
    """Makes a scratch directory; the caller removes it."""
    scratch = Path(tempfile.mkdtemp(prefix="opam-ci-lint-"))
    (scratch / FILES).mkdir()
    return scratch


class LintProgram(Protocol):
    """An opam that lints."""

    async def require(self) -> None:
        """Checks that it can run here, without making anything.

        Raises:
            UsageError: It cannot; the message says what to install or to set.
        """
        ...

    async def prepare(self) -> object:
        """Makes what it needs, unless that exists.

        Raises:
            InfrastructureError: Cause `image` or `sandbox`: it cannot be made now.
        """
        ...

    async def command(self, scratch: Path, arguments: Sequence[str], *, network: bool) -> Command:
        """Returns the command that runs it, after `prepare`.

        Args:
            scratch: Directory that it may write to, with the directory `FILES`.
            arguments: After the name of the program.
            network: Whether it may download.

        Raises:
            InfrastructureError: Cause `image` or `sandbox`: it cannot run now.
        """
        ...


class RootProgram:
    """The opam of our own Debian root, read-only, in a sandbox.

    Args:
        home: Directory of the root, shared with builds.
        on_progress: Receives progress messages while the root is made (40 s).
    """

    def __init__(self, home: Path, on_progress: Callable[[str], None]) -> None:
        self._rights = sandbox.rights()
        self._images = ImageStore(home / "images", self._rights)
        self._archives = aptsources.read_host()
        self._on_progress = on_progress

    async def require(self) -> None:
        """Checks that the root can be made and entered; see `LintProgram.require`."""
        trouble = (
            sandbox.missing_tools()
            or await LINT.run(namespace_problem, self._rights)
            or await _sandbox_problem()
        )
        if trouble is not None:
            raise UsageError(f"{trouble}, or set {SETTING} to the path of an opam {OPAM_VERSION}")

    async def prepare(self) -> Image:
        """Returns the root, which is made unless it exists; see `LintProgram.prepare`."""
        sandbox.require_tools()
        # Its opam is `OPAM_VERSION`, and builds use it too.
        debian = embedded_root(platform.machine())
        return await self._images.ensure(debian, self._archives, self._on_progress)

    async def command(self, scratch: Path, arguments: Sequence[str], *, network: bool) -> Command:
        """Returns the command; see `LintProgram.command`."""
        image = await self.prepare()
        return confined(image.root, scratch, ("opam", *arguments), network=network)


class HostProgram:
    """An opam of the machine that its operator chose, outside of any sandbox.

    For containers, in which no sandbox can be made and which are the same everywhere.

    Args:
        path: Of the program.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def require(self) -> None:
        """Checks its version; see `LintProgram.require`."""
        output = bytearray()
        ended = await run_process(
            ["env", str(self._path), "--version"], output=output.extend, time_limit=_PROBE_TIMEOUT
        )
        version = output.decode(errors="replace").strip()
        if not ended.ok or version != OPAM_VERSION:
            raise UsageError(
                f"{SETTING}: {self._path} is not opam {OPAM_VERSION}, whose lint authors are judged"
                f" by; `--version` prints {version[-200:]!r}"
            )

    async def prepare(self) -> None:
        """Makes nothing."""

    async def command(self, scratch: Path, arguments: Sequence[str], *, network: bool) -> Command:
        """Returns the command; see `LintProgram.command`."""
        environment = _environment(str(scratch), os.environ.get("PATH", os.defpath), network)
        variables = (f"{name}={value}" for name, value in environment.items())
        return ["env", "-i", f"--chdir={scratch / FILES}", *variables, str(self._path), *arguments]


async def _sandbox_problem() -> str | None:
    """Tries the sandbox with the machine's own root, which always exists."""
    output = bytearray()
    scratch = await LINT.run(new_scratch)
    try:
        ended = await run_process(
            confined(Path("/"), scratch, ("true",), network=False),
            output=output.extend,
            time_limit=_PROBE_TIMEOUT,
        )
    finally:
        await LINT.run(shutil.rmtree, scratch)
    if ended.ok:
        return None
    last = (output.decode(errors="replace").strip().splitlines() or [f"exit {ended.exit_code}"])[-1]
    return (
        f"the sandbox of lint does not work here ({last}): run this outside of a container, in a"
        " privileged one"
    )


def confined(root: Path, scratch: Path, command: Sequence[str], *, network: bool) -> Command:
    """Returns the command line of a program that can write only to its scratch directory.

    Args:
        root: Its file system.
        scratch: Its `/tmp`, which it may write to; it starts in `FILES` in there.
        command: The program, by name within the root, and its arguments.
        network: Whether it shares the host's network.
    """
    shown = sandbox.network_files() if network else ()
    environment = _environment(_SCRATCH, "/usr/bin:/bin", network)
    options = [
        # Without /proc, opam starts `ps` to find its shell, which doubles the time of a start.
        *("--ro-bind", str(root), "/", "--dev", "/dev", "--proc", "/proc"),
        *("--bind", str(scratch), _SCRATCH),
        *(word for path, inside in shown for word in ("--ro-bind", str(path), inside)),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *(() if network else ("--unshare-net",)),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
        *(word for name, value in environment.items() for word in ("--setenv", name, value)),
        *("--chdir", f"{_SCRATCH}/{FILES}"),
    ]
    return lambda inherited: [*sandbox.bubblewrap(options, inherited), *command]


def _environment(scratch: str, path: str, network: bool) -> dict[str, str]:  # noqa: FBT001 - of two callers here
    """The environment: of the caller's only proxies, as opam's variables would change its lint."""
    return {
        **(sandbox.proxy_environment() if network else {}),
        "PATH": path,
        "HOME": scratch,
        "OPAMROOT": f"{scratch}/root",
        "OPAMROOTISOK": "1",
        "OPAMCOLOR": "never",
        "OPAMUTF8": "never",
        "OPAMYES": "1",
        "LC_ALL": "C.UTF-8",
    }
