"""The network namespace of a job's phases with network.

Nothing of the host's own network is in it: pasta(1) connects it to the internet by sockets of
its own, and nftables rules in the namespace, which nothing in a build has the rights to change,
decide where to (docs/adr/0023-network-of-builds.md).
"""

import asyncio
import contextlib
import json
import os
import socket
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import psutil

from opam_ci.clients.runners.sandbox import network_filter as netfilter
from opam_ci.clients.runners.sandbox.bubblewrap import Rights, network_files
from opam_ci.clients.runners.sandbox.network_filter import Address
from opam_ci.clients.runners.sandbox.process import (
    HOLD,
    ProcessResult,
    ready_process,
    run_process,
)
from opam_ci.clients.runners.settings import Endpoint
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

TUN: Final = Path("/dev/net/tun")

_TIMEOUT: Final = 30.0
"""Seconds for a program that takes some 10 ms on an idle machine."""

_SHOWN: Final = 400


def tun_problem() -> str | None:
    """Returns why this user cannot open the device of the namespaces, and what to do."""
    if os.access(TUN, os.R_OK | os.W_OK):
        return None
    sudo = "" if os.geteuid() == 0 else "sudo "
    if not TUN.exists():
        return (
            f"this machine has no {TUN}, which the network of builds needs: {sudo}modprobe tun, "
            "or give the container the device"
        )
    return f"this user cannot open {TUN}, which the network of builds needs: {sudo}chmod 666 {TUN}"


class Network:
    """The connection of one network namespace.

    Args:
        enter: Prefix of a command that runs in the namespace.
    """

    def __init__(self, enter: tuple[str, ...]) -> None:
        self.enter = enter

    async def described(
        self, ended: ProcessResult, output: Callable[[bytes], None]
    ) -> ProcessResult:
        """Adds to how a command ended the addresses that were refused to it.

        Args:
            ended: How it ended.
            output: Receives a line about them, for people, if it failed.
        """
        if ended.ok:
            return ended
        refused = [str(each) for each in await self._refused()]
        if refused:
            output(_refused_line(refused).encode())
        return replace(ended, refused=tuple(refused))

    async def _refused(self) -> list[Address]:
        """Returns the internal addresses to which connections were refused, and forgets them."""
        found: list[str] = []
        for name in netfilter.REFUSED_SETS:
            place = ("set", "inet", netfilter.TABLE, name)
            listed = json.loads(await self.call("nft", "--json", "list", *place))["nftables"]
            found += next((each["set"].get("elem", []) for each in listed if "set" in each), [])
            await self.call("nft", "flush", *place)
        return netfilter.addresses(found)

    async def call(self, *argv: str) -> bytes:
        """Runs a program of this machine in the namespace, and returns its output.

        Raises:
            InfrastructureError: Cause `sandbox`: it failed.
        """
        output = bytearray()
        ended = await run_process([*self.enter, *argv], output=output.extend, time_limit=_TIMEOUT)
        if not ended.ok:
            text = output.decode(errors="replace").strip()
            raise _not_made(f"{argv[0]}: {ended.how}: {text[-_SHOWN:]}")
        return bytes(output)


@asynccontextmanager
async def connected(pid: int, allowed: Sequence[Endpoint]) -> AsyncIterator[Network]:
    """Connects the network namespace of a process to the internet and to what is allowed.

    Args:
        pid: A process in the namespace, which has no network yet.
        allowed: Internal endpoints that it may reach. Those on the machine's loopback interface
            are at the same address and port inside.

    Raises:
        InfrastructureError: Cause `sandbox`: the namespace cannot be connected.
    """
    found = await _resolve(allowed)
    forwarded = {port for address, port in found if address.is_loopback}
    own = await to_thread(_own_addresses)
    versions = await to_thread(_name_server_versions)
    namespaces = Path(f"/proc/{pid}/ns")
    # Of no rights in one's own user namespace.
    is_inner = not await to_thread((namespaces / "user").samefile, "/proc/self/ns/user")
    user = (f"--user={namespaces / 'user'}",) if is_inner else ()
    network = Network(("nsenter", *user, f"--net={namespaces / 'net'}", "--"))
    rules = netfilter.rules(found, own, versions)
    # First: there is no moment without rules.
    await network.call("nft", rules)
    is_root = os.geteuid() == 0
    command = [
        # Root needs no more rights than it has.
        *(() if is_root else ("nsenter", *user, "--")),
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("pasta", "--foreground", "--quiet", "--config-net", "--no-map-gw"),
        *("--address", netfilter.ADDRESS, "--netmask", "24", "--gateway", netfilter.GATEWAY),
        *(word for each in versions for word in ("--dns-forward", netfilter.RESOLVERS[each])),
        *("--tcp-ports", "none", "--udp-ports", "none", "--udp-ns", "none"),
        *("--tcp-ns", _ports(forwarded)),
        *("--netns-only", "--no-netns-quit", *(("--runas", "0") if is_root else ())),
        # Written when the namespace is ready. The namespace is an open file: pasta has given up
        # the right to open that of a process by its path.
        *("--pid", "/proc/self/fd/1", "--netns", "/proc/self/fd/0"),
    ]
    with await to_thread((namespaces / "net").open, "rb") as namespace:
        async with ready_process(command, lambda why: _not_made(f"pasta: {why}"), stdin=namespace):
            yield network


@dataclass(frozen=True)
class ContainerNetwork:
    """The network of a container's phases that have one.

    Attributes:
        name: The engine's name of it; None for a namespace that is `connected`.
        allowed: See `connected`.
    """

    name: str | None = None
    allowed: tuple[Endpoint, ...] = ()

    def and_to(self, urls: Iterable[str]) -> Self:
        """Returns the network with which hosts of further URLs can be reached."""
        return replace(self, allowed=(*self.allowed, *configured(urls)))


class JobNetwork:
    """A namespace of a job's own for its phases with network, made when the first one begins.

    Args:
        directory: Of the job; gets a file for name resolution.
        allowed: See `connected`.
        rights: Of the job's commands.

    Attributes:
        files: Files for name resolution to show to them, as (host path, inside path).
    """

    def __init__(self, directory: Path, allowed: Sequence[Endpoint], rights: Rights) -> None:
        self._allowed = allowed
        self._rights = rights
        self._stack = AsyncExitStack()
        self._network: Network | None = None
        self.files = files(directory)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._stack.aclose()

    async def connect(self) -> Network:
        """Returns the connection; makes it at the first call."""
        if self._network is None:
            empty = (*self._rights.prefix, "unshare", "--net", "--", *HOLD)
            async with AsyncExitStack() as stack:
                pid = await stack.enter_async_context(
                    ready_process(empty, lambda why: _not_made(f"unshare: {why}"))
                )
                self._network = await stack.enter_async_context(connected(pid, self._allowed))
                self._stack = stack.pop_all()
        return self._network


def files(directory: Path) -> tuple[tuple[Path, str], ...]:
    """Writes the files for name resolution in a namespace.

    Args:
        directory: Where to write them.

    Returns:
        What to show in a build root, as (host path, inside path).
    """
    servers = directory / "resolv.conf"
    lines = (f"nameserver {netfilter.RESOLVERS[each]}\n" for each in _name_server_versions())
    servers.write_text("".join(lines))
    servers.chmod(0o644)
    return network_files(servers)


def _refused_line(addresses: Sequence[str]) -> str:
    """Returns the line of a job's log about addresses that its network does not reach."""
    return (
        f"[opam-ci: no connection to {', '.join(addresses)}: builds reach the internet only, and "
        "what the operator of this worker allows by OPAM_CI_NETWORK_ALLOW]\n"
    )


def configured(urls: Iterable[str]) -> tuple[Endpoint, ...]:
    """Returns the endpoints of mirrors and proxies that an operator configured."""
    return tuple(each for each in map(Endpoint.of_url, urls) if each is not None)


async def _resolve(endpoints: Iterable[Endpoint]) -> list[tuple[Address, int | None]]:
    """Resolves endpoints; a name that does not resolve is left out, and fails where it is used."""
    loop = asyncio.get_running_loop()
    found: dict[tuple[Address, int | None], None] = {}
    for endpoint in dict.fromkeys(endpoints):
        with contextlib.suppress(OSError):
            answers = await loop.getaddrinfo(endpoint.host, None, type=socket.SOCK_STREAM)
            texts = (str(sockaddr[0]) for *_, sockaddr in answers)
            found |= {(each, endpoint.port): None for each in netfilter.addresses(texts)}
    return list(found)


def _own_addresses() -> list[Address]:
    """Returns the addresses of this machine's interfaces."""
    interfaces = psutil.net_if_addrs().values()
    return netfilter.addresses(each.address for listed in interfaces for each in listed)


def _name_server_versions() -> tuple[int, ...]:
    """Returns the versions of IP by which this machine's name servers are reached."""
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        return ()
    words = (line.split() for line in lines)
    texts = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
    return tuple(sorted({each.version for each in netfilter.addresses(texts)}))


def _ports(ports: Iterable[int | None]) -> str:
    """Returns pasta's word for ports: `auto` are all on which this machine listens."""
    wanted = set(ports)
    if None in wanted:
        return "auto"
    return ",".join(str(each) for each in sorted(each or 0 for each in wanted)) or "none"


def _not_made(problem: str) -> InfrastructureError:
    return InfrastructureError(
        f"the network of builds cannot be made: {problem}", cause=Cause.SANDBOX
    )
