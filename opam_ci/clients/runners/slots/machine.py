"""What this machine is, and what it has: system, opam, OCaml, opam's sandbox."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence

from opam_ci.clients import programs
from opam_ci.clients.runners.phases.steps import OpamSandbox
from opam_ci.clients.runners.sandbox.process import LastOutput, run_process
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.model import Platform, architectures

_TIMEOUT = 60.0
_OPAM_NEEDS = ("curl", "git", "make", "tar")
_RELEASE = re.compile(r"\d+\.\d+")


class Machine(Frozen):
    """This machine, as jobs see it.

    Attributes:
        distribution: As in names of platforms, such as `debian-13` or `macos-homebrew`.
        arch: Its architecture, one of `ARCHITECTURES`.
        opam: Version of its opam.
        ocaml: Version of its OCaml, None if it has none.
        sandbox: The sandbox that its opam uses.
    """

    distribution: str
    arch: str
    opam: str
    ocaml: str | None
    sandbox: OpamSandbox

    @property
    def name(self) -> str:
        """A line for people and a key for what depends on it."""
        ocaml = "no OCaml" if self.ocaml is None else f"OCaml {self.ocaml}"
        return f"{self.distribution} on {self.arch} with opam {self.opam} and {ocaml}"

    def switch(self, wanted: Platform) -> tuple[str, ...]:
        """Returns the words of `opam switch create` for a platform's compiler.

        The machine's own OCaml is taken if it fits, else the platform's `compiler`, else the
        newest patch of the release, both of which are compiled for the base layer.

        Raises:
            InfrastructureError: Cause `image`: this machine is not of that platform.
        """
        problem = self._problem(wanted)
        if problem is None and wanted.variant is None and self._release == wanted.ocaml:
            return ("ocaml-system",)
        if problem is None and wanted.compiler not in {"", "ocaml-system"}:
            return (wanted.compiler,)
        if problem is None and wanted.compiler == "" and wanted.variant is None:
            if "~" in wanted.ocaml:
                problem = f"name the package of OCaml {wanted.ocaml} as its `compiler`"
            else:
                major, minor = wanted.ocaml.split(".")
                bounds = f'{{>= "{wanted.ocaml}" & < "{major}.{int(minor) + 1}~"}}'
                return ("--formula", f'"ocaml-base-compiler" {bounds}')
        raise InfrastructureError(
            f"this machine is {self.name}, which cannot build for {wanted.name}: "
            + (problem or f"install OCaml {wanted.release}, or name a `compiler` package"),
            cause=Cause.IMAGE,
        )

    @property
    def _release(self) -> str | None:
        found = _RELEASE.match(self.ocaml or "")
        return found and found[0]

    def _problem(self, wanted: Platform) -> str | None:
        if (wanted.distribution, wanted.arch) != (self.distribution, self.arch):
            return "its jobs belong into the pool of another machine"
        if wanted.opam not in {"system", "dev"} and not self.opam.startswith(f"{wanted.opam}."):
            return f"install opam {wanted.opam}"
        return None


def missing_programs() -> str | None:
    """Returns which programs jobs need and this machine lacks, None if it has all."""
    path = os.environ.get("PATH", os.defpath)
    wanted = ("opam", *_OPAM_NEEDS, *map(programs.gnu, ("cp", "du", "rm")))
    absent = [name for name in wanted if shutil.which(name, path=path) is None]
    if not absent:
        return None
    return (
        f"the native runner needs {', '.join(absent)} on this machine's PATH: install them "
        "(docs/native.md)"
    )


async def read_machine(prefix: Sequence[str] = ()) -> Machine:
    """Finds out what this machine is.

    Args:
        prefix: Words before a command that run it as the user of a job.

    Raises:
        InfrastructureError: Cause `image`: its opam does not work.
    """
    opam = await _version("opam", "--version")
    if opam is None:
        raise InfrastructureError(
            "`opam --version` fails on this machine: install opam", cause=Cause.IMAGE
        )
    return Machine(
        distribution=_distribution(),
        arch=(architectures(platform.machine()) or (platform.machine(),))[0],
        opam=opam,
        ocaml=await _version("ocamlc", "-version"),
        sandbox=await _sandbox(prefix),
    )


def _distribution() -> str:
    if sys.platform == "darwin":
        return "macos-homebrew"
    if sys.platform.startswith("freebsd"):
        return f"freebsd-{platform.release().partition('-')[0]}"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "linux"
    version = release.get("VERSION_ID")
    return f"{release['ID']}-{version}" if version else release["ID"]


async def _sandbox(prefix: Sequence[str]) -> OpamSandbox:
    if sys.platform == "darwin":
        return OpamSandbox.SANDBOX_EXEC
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return OpamSandbox.NONE
    # What opam's own check does: without user namespaces it turns its sandbox off.
    words = ("bwrap", "--ro-bind", "/", "/", "--unshare-net", "--proc", "/proc", "--dev", "/dev")
    tried = await run_process([*prefix, *words, "true"], output=lambda _: None, time_limit=_TIMEOUT)
    return OpamSandbox.BUBBLEWRAP if tried.ok else OpamSandbox.NONE


async def _version(*argv: str) -> str | None:
    if shutil.which(argv[0]) is None:
        return None
    output = LastOutput()
    ended = await run_process(argv, output=output, time_limit=_TIMEOUT)
    return output.text if ended.ok else None
