"""One command of a job and its surroundings in the build root."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from opam_ci.clients.runners import sandbox
from opam_ci.clients.runners.mirrors import Mirrors

OPAM_ENVIRONMENT = {
    # The peer's own settings: whole logs, precise rebuilds.
    "OPAMERRLOGLEN": "0",
    "OPAMPRECISETRACKING": "1",
    "CI": "true",
    "OPAM_REPO_CI": "true",
    "OPAMCOLOR": "never",
    "OPAMUTF8": "never",
    "OPAMSTATUSLINE": "never",
    "OPAMYES": "1",
    "OPAMCONFIRMLEVEL": "unsafe-yes",
    # Without its own time limits a fetch from a host that hangs never ends.
    "OPAMFETCH": (
        "curl --connect-timeout 10 --max-time 600 --speed-time 30 --speed-limit 1000 "
        "--retry 2 --retry-delay 2 --user-agent opam-ci "
        "--write-out %%{http_code}\\n -L -o %{out}% -- %{url}%"
    ),
}


@dataclass(frozen=True)
class Step:
    """One command of a phase.

    Attributes:
        argv: The command within the build root.
        network: Whether it has network.
        as_root: Whether it runs as root of the build root.
        shown: How the log names it; the command itself if empty.
        report: Whether it is an opam run whose JSON report is wanted.
        directory: Where it starts.
        scratch: Directories that are in memory while the command runs, and empty before.
        environment: Further environment variables.
        read_only: Host directories shown to it, as (host path, inside path).
    """

    argv: tuple[str, ...]
    network: bool = False
    as_root: bool = False
    shown: str = ""
    report: bool = False
    directory: str = "/home/opam"
    scratch: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    read_only: tuple[tuple[Path, str], ...] = ()

    @property
    def title(self) -> str:
        """What the log says that is run."""
        return self.shown or " ".join(self.argv)


_OPAM_SANDBOX = "bwrap --ro-bind / / --unshare-net --proc /proc --dev /dev"
"""The shape of a build: opam's own sandbox in the outer one."""

_CANARY_SCRIPT = (
    f"{_OPAM_SANDBOX} opam --version && "
    "mkdir -p empty/packages && echo 'opam-version: \"2.0\"' > empty/repo && "
    "exec opam init --bare --no-setup --kind=local default ./empty"
)
CANARY = Step(("sh", "-c", _CANARY_SCRIPT), shown="canary", directory="/home/opam")
"""What a preflight runs: afterwards opam's configuration says whether its sandbox is on."""


def opam_sandbox_probe(*, own_processes: bool) -> Step:
    """Tries whether commands of packages can run at all; nothing that a package wrote is used.

    Args:
        own_processes: Whether opam's sandbox has a PID namespace of its own.
    """
    unshared = ("--unshare-pid",) if own_processes else ()
    return Step((*_OPAM_SANDBOX.split(), *unshared, "true"), shown="a command in opam's sandbox")


def unpack(directory: str) -> Step:
    """Unpacks a `.tar.gz` from standard input, within the build root.

    Not on the host: whatever a hostile archive does, it does inside.
    """
    script = 'mkdir -p "$1" && exec tar --extract --gzip --no-same-owner --directory "$1"'
    return Step(
        ("sh", "-c", script, "sh", directory),
        shown=f"unpack into {directory}",
    )


def confined(
    step: Step, mirrors: Mirrors, extra: Mapping[str, str] | None = None
) -> sandbox.Confined:
    """Describes a step's surroundings.

    Args:
        step: The command.
        mirrors: Archive mirrors to show.
        extra: Further environment variables.
    """
    variables = {**OPAM_ENVIRONMENT, **(extra or {}), **dict(step.environment)}
    if step.as_root:
        variables |= {"DEBIAN_FRONTEND": "noninteractive", "HOME": "/root", "USER": "root"}
    if step.network:
        variables |= sandbox.proxy_environment()
    return sandbox.Confined(
        argv=step.argv,
        network=step.network,
        as_root=step.as_root,
        read_only=(
            *mirrors.directories,
            *step.read_only,
            *(sandbox.network_files() if step.network else ()),
        ),
        environment=sandbox.environment(variables),
        directory=step.directory,
        scratch=step.scratch,
    )
