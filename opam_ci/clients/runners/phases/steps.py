"""One command of a job and its environment in the build root."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox

OPAM_ENVIRONMENT = {
    # opam-repo-ci's own settings: whole logs, precise rebuilds, one download at a time.
    "OPAMERRLOGLEN": "0",
    "OPAMPRECISETRACKING": "1",
    "OPAMDOWNLOADJOBS": "1",
    "CI": "true",
    "OPAM_REPO_CI": "true",
    "OPAMCOLOR": "never",
    "OPAMUTF8": "never",
    "OPAMSTATUSLINE": "never",
    "OPAMYES": "1",
    "OPAMCONFIRMLEVEL": "unsafe-yes",
}

WITHOUT_DEPEXTS = {"OPAMNODEPEXTS": "1"}
"""Once the system packages of a solution are there: otherwise each run of opam asks the system's
package manager about them again, which takes apt 0.1 s. opam has it since 2.1."""


@dataclass(frozen=True)
class Step(sandbox.Confined):
    """One command of a phase; `confined` completes its environment and read-only directories.

    Attributes:
        shown: Its title in the log, by default the command itself.
        report: Whether it is an opam run whose JSON report is read.
    """

    shown: str = ""
    report: bool = False

    @property
    def title(self) -> str:
        """Title of the command in the log."""
        return self.shown or " ".join(self.argv)


class OpamSandbox(StrEnum):
    """The sandbox in which opam runs commands of packages: what the system has."""

    BUBBLEWRAP = "bubblewrap"
    SANDBOX_EXEC = "sandbox-exec"
    NONE = "none"


_OPAM_SANDBOX = "bwrap --ro-bind / / --unshare-net --proc /proc --dev /dev"
"""The shape of a build: opam's own sandbox in the outer one."""

_SELF_TEST = (
    f"{_OPAM_SANDBOX} opam --version && "
    "mkdir -p empty/packages && echo 'opam-version: \"2.0\"' > empty/repo && "
    "exec opam init --bare --no-setup --kind=local default ./empty"
)
SELF_TEST = Step(("sh", "-c", _SELF_TEST), shown="self-test of the sandbox")
"""The command of a preflight: opam's configuration then records whether its sandbox is on."""


def opam_sandbox_probe(
    *, own_processes: bool, sandbox: OpamSandbox = OpamSandbox.BUBBLEWRAP
) -> Step:
    """Runs a command as opam runs those of packages; uses nothing that a package wrote.

    Args:
        own_processes: Whether opam's sandbox has a PID namespace of its own.
        sandbox: The sandbox, which must be one.
    """
    if sandbox is OpamSandbox.SANDBOX_EXEC:
        allow = ("sandbox-exec", "-p", "(version 1)(allow default)", "true")
        return Step(allow, shown="a command in opam's sandbox")
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
    step: Step,
    mirrors: Mirrors,
    network_files: tuple[tuple[Path, str], ...] = (),
    personality: str | None = None,
) -> sandbox.Confined:
    """Adds to a command what every command of a job has.

    Args:
        step: The command.
        mirrors: Archive mirrors to show.
        network_files: Files for name resolution to show to a command with network.
        personality: Program of the build root that starts the command, and sets what the kernel
            tells it and its children about the machine; see `Platform.personality`.
    """
    variables = {**OPAM_ENVIRONMENT, **dict(step.environment)}
    if step.as_root:
        variables |= {"DEBIAN_FRONTEND": "noninteractive", "HOME": "/root", "USER": "root"}
    if step.network:
        variables |= sandbox.proxy_environment()
    return replace(
        step,
        argv=step.argv if personality is None else (personality, *step.argv),
        sockets_of_32_bits=personality is not None,
        read_only=(
            *mirrors.directories,
            *step.read_only,
            *(network_files if step.network else ()),
        ),
        environment=sandbox.environment(variables),
    )
