"""The command line that runs a command isolated in a build root.

Three programs, each replacing the one before it, so that the worker's child is the
sandbox itself: `unshare` makes a private mount namespace, a constant shell script mounts
the overlay in it, and bubblewrap enters. The mount exists only in that namespace, thus a
killed worker leaves none behind.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from opam_ci.clients import programs
from opam_ci.clients.runners.sandbox import empty_proc as emptyproc
from opam_ci.clients.runners.sandbox import seccomp
from opam_ci.clients.runners.sandbox.process import Inherited
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

USER = 1000
"""User and group id of `opam` inside a build root."""

HOME = "/home/opam"

# With fsconfig(2), which newer versions of mount prefer, an option has at most 255 bytes; with
# mount(2) all options together have a page. The sandbox holds an empty /proc besides its own,
# hidden, since bubblewrap covers parts of the one that it makes for root (`empty_proc.py`).
_MOUNT = (
    f'cd "$1" && {" ".join(emptyproc.MOUNT)} "$2" '
    '&& LIBMOUNT_FORCE_MOUNT2=always mount -t overlay overlay -o "$3" "$4" '
    '&& shift 4 && exec "$@"'
)

_BUILD_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID")
"""What `setpriv` needs to become the unprivileged user."""

APT_CAPABILITIES = (
    *_BUILD_CAPABILITIES,
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETFCAP",
    "CAP_SYS_CHROOT",
)
"""What dpkg and maintainer scripts need."""

NETWORK_TOOLS = {
    "nsenter": "util-linux",
    "nft": "nftables",
    "pasta": "passt",
    "setpriv": "util-linux",
}
"""Programs of the host that the network of builds needs, with the Debian package of each."""

TOOLS = {
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "bwrap": "bubblewrap",
    "mmdebstrap": "mmdebstrap",
}
"""Programs of the host that a build root needs, with the Debian package of each."""

NO_TOOLS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Overlay:
    """A build root: read-only layers and one writable directory.

    Processes inside can read the paths of the mount, so these are relative.

    Attributes:
        home: Common parent of all paths, possibly through links.
        lowers: Read-only layers, topmost first.
        upper: Directory that takes all writes of the job.
        work: The kernel's scratch directory, on the same file system.
        merged: Empty directory to mount the overlay on.
        proc: Empty directory to mount a /proc on.
    """

    home: Path
    lowers: tuple[Path, ...]
    upper: Path
    work: Path
    merged: Path
    proc: Path


@dataclass(frozen=True)
class Rights:
    """How this worker gets the rights that mounts need.

    Attributes:
        prefix: Prefix of every command that works on a build root: empty for root; a
            user namespace with subordinate ids for other users; within a job, its own one.
        making_images: Prefix of mmdebstrap: what it mounts is in a namespace that ends with it,
            however it ends, so that what it leaves can be removed.
        makes_devices: Whether device files can be made.
        overlay_options: Further mount options of the overlay.
    """

    prefix: tuple[str, ...] = ()
    making_images: tuple[str, ...] = ()
    makes_devices: bool = False
    overlay_options: tuple[str, ...] = ()


# Extended attributes of "trusted." need root of the machine, which no job is (`user_namespace.py`).
_OVERLAY_OPTIONS = ("userxattr",)
_AS_MAPPED_ROOT = ("unshare", "--user", "--map-root-user", "--map-auto")
_NAMESPACES_OF_AN_IMAGE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--")
ROOT = Rights(
    making_images=_NAMESPACES_OF_AN_IMAGE, makes_devices=True, overlay_options=_OVERLAY_OPTIONS
)
ROOTLESS = Rights(
    prefix=(*_AS_MAPPED_ROOT, "--"),
    making_images=(*_AS_MAPPED_ROOT, *_NAMESPACES_OF_AN_IMAGE[1:]),
    overlay_options=_OVERLAY_OPTIONS,
)


IN_NAMESPACE = Rights(
    making_images=_NAMESPACES_OF_AN_IMAGE, overlay_options=ROOTLESS.overlay_options
)
"""Of root in a container with a user namespace of its own, who may make no devices."""


def rights() -> Rights:
    """Returns the rights of the user that runs this worker."""
    if os.geteuid() != 0:
        return ROOTLESS
    mapped = Path("/proc/self/uid_map").read_text().split()
    return ROOT if mapped == ["0", "0", str(2**32 - 1)] else IN_NAMESPACE


@dataclass(frozen=True)
class Confined:
    """A command inside a build root.

    Attributes:
        argv: The command, by name within the build root.
        network: Whether it has a network: that of the namespace in which it is started.
        as_root: Whether it runs as root of the build root, with apt's capabilities.
        read_only: Host directories and files shown read-only, as (host path, inside path).
        environment: Its environment; nothing is inherited.
        directory: Its working directory.
        scratch: Directories in memory, empty at the start, writable for all users inside.
        sockets_of_32_bits: See `seccomp.program`.
    """

    argv: tuple[str, ...]
    network: bool = False
    as_root: bool = False
    read_only: tuple[tuple[Path, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    directory: str = HOME
    scratch: tuple[str, ...] = ()
    sockets_of_32_bits: bool = False


def confine(root: Overlay, step: Confined, rights: Rights) -> Callable[[Inherited], Sequence[str]]:
    """Returns the command line of a confined command."""
    mount = ",".join(
        [
            f"lowerdir={':'.join(str(path.relative_to(root.home)) for path in root.lowers)}",
            f"upperdir={root.upper.relative_to(root.home)}",
            f"workdir={root.work.relative_to(root.home)}",
            *rights.overlay_options,
        ]
    )
    capabilities = APT_CAPABILITIES if step.as_root else _BUILD_CAPABILITIES
    options = [
        *("--bind", str(root.merged), "/"),
        *("--proc", "/proc", "--dev", "/dev"),
        # Root has the number that root of the machine has: the kernel's settings are its files.
        *(("--ro-bind", "/proc/sys", "/proc/sys") if step.as_root else ()),
        *("--tmpfs", "/run", "--bind", str(root.proc), "/run/proc", "--tmpfs", "/run"),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", "opam-ci"),
        *(() if step.network else ("--unshare-net",)),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *(word for name in capabilities for word in ("--cap-add", name)),
        *(word for path, inside in step.read_only for word in ("--ro-bind", str(path), inside)),
        *start_options(step),
    ]
    user = () if step.as_root else (f"--reuid={USER}", f"--regid={USER}")

    def command(inherited: Inherited) -> Sequence[str]:
        return [
            *rights.prefix,
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("unshare", "--mount", "--propagation", "private", "--"),
            *("sh", "-c", _MOUNT, "sh", str(root.home), str(root.proc), mount, str(root.merged)),
            *bubblewrap(
                options,
                inherited,
                namespaces=not step.as_root,
                sockets_of_32_bits=step.sockets_of_32_bits,
            ),
            *("setpriv", *user, "--clear-groups", "--", *step.argv),
        ]

    return command


def bubblewrap(
    options: Sequence[str],
    inherited: Inherited,
    *,
    namespaces: bool = True,
    sockets_of_32_bits: bool = False,
) -> list[str]:
    """Returns bubblewrap's command line, up to the command that it runs.

    Processes inside can read this line, so it names no path of the host and no proxy.

    Args:
        options: Options of bubblewrap.
        inherited: What it inherits.
        namespaces: Whether processes inside can make user namespaces.
        sockets_of_32_bits: See `seccomp.program`.

    Raises:
        InfrastructureError: Cause `sandbox`: the filter of system calls cannot be made.
    """
    program = seccomp.program(namespaces=namespaces, sockets_of_32_bits=sockets_of_32_bits)
    words = [*options, "--seccomp", str(inherited.file(program))]
    given = inherited.file(b"".join(os.fsencode(word) + b"\0" for word in words))
    return ["bwrap", "--args", str(given), "--json-status-fd", str(inherited.status), "--"]


def start_options(step: Confined) -> list[str]:
    """Returns bubblewrap's options for scratch directories, environment and working directory."""
    return [
        *(word for path in step.scratch for word in ("--perms", "1777", "--tmpfs", path)),
        "--clearenv",
        *(word for name, value in step.environment for word in ("--setenv", name, value)),
        *("--chdir", step.directory),
    ]


def network_files(
    name_servers: Path = Path("/etc/resolv.conf"),
) -> tuple[tuple[Path, str], ...]:
    """Returns files for name resolution, as (host path, inside path).

    Args:
        name_servers: The file with the name servers; by default the host's.
    """
    files = {"/etc/resolv.conf": name_servers, "/etc/hosts": Path("/etc/hosts")}
    # The targets are plain files in the image; a link's target on the host is what counts.
    return tuple((path.resolve(), inside) for inside, path in files.items() if path.exists())


def environment(extra: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    """Returns the environment of a confined command: nothing of the worker's own."""
    return tuple(
        {
            "HOME": HOME,
            "USER": "opam",
            "LOGNAME": "opam",
            "SHELL": "/bin/bash",
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            **(extra or {}),
        }.items()
    )


def missing_tools(further: Mapping[str, str] = NO_TOOLS) -> str | None:
    """Returns which programs the host lacks and the command that installs them, or None.

    Args:
        further: Programs besides those of `TOOLS`.
    """
    needed = {**TOOLS, **further}
    if os.geteuid() != 0:
        needed["newuidmap"] = "uidmap"
    if not seccomp.is_installed():
        needed[seccomp.LIBRARY] = "libseccomp2"
    return programs.missing(needed)


def require_tools(further: Mapping[str, str] = NO_TOOLS) -> None:
    """Checks that the host has the programs; see `missing_tools`.

    Raises:
        InfrastructureError: Cause `sandbox`, with the packages to install.
    """
    if missing := missing_tools(further):
        raise InfrastructureError(missing, cause=Cause.SANDBOX)


def proxy_environment() -> dict[str, str]:
    """Returns the worker's proxy settings, for phases with network only."""
    names = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
    found = {name: os.environ.get(name) or os.environ.get(name.upper()) for name in names}
    return {name: value for name, value in found.items() if value}
