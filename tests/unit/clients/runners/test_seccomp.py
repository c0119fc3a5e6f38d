"""The filter of system calls, on a program of this machine."""

import json
import sys

import pytest

from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox import seccomp
from opam_ci.clients.runners.sandbox.process import Inherited, run_process
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

_TRY = """
import ctypes, os, socket, subprocess
def tried(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
print([tried(lambda each=each: socket.socket(*each)) for each in (
    (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_STREAM),
    (socket.AF_NETLINK, socket.SOCK_RAW, 0), (socket.AF_NETLINK, socket.SOCK_RAW, 12),
    (socket.AF_VSOCK, socket.SOCK_STREAM), (socket.AF_PACKET, socket.SOCK_RAW),
)])
libc = ctypes.CDLL(None, use_errno=True)
print([libc.unshare(0x10000000), ctypes.get_errno()])
print(subprocess.run(["true"]).returncode)
"""


async def _run(*, namespaces: bool, sockets_of_32_bits: bool = False) -> list[str]:
    output = bytearray()

    def command(inherited: Inherited) -> list[str]:
        box = sandbox.bubblewrap(
            ["--dev-bind", "/", "/"],
            inherited,
            namespaces=namespaces,
            sockets_of_32_bits=sockets_of_32_bits,
        )
        return [*box, sys.executable, "-c", _TRY]

    ended = await run_process(command, output=output.extend, time_limit=60)
    assert ended.ok, output.decode()
    return output.decode().splitlines()


async def test_builds_have_few_kinds_of_sockets_and_root_of_a_build_root_no_namespaces() -> None:
    sockets = "[0, 0, 0, 93, 97, 97]"
    assert await _run(namespaces=True) == [sockets, "[0, 0]", "0"]
    assert await _run(namespaces=False) == [sockets, "[-1, 1]", "0"]
    # Programs of 64 bits have no more where those of 32 bits do.
    assert await _run(namespaces=True, sockets_of_32_bits=True) == [sockets, "[0, 0]", "0"]
    assert await _run(namespaces=False, sockets_of_32_bits=True) == [sockets, "[-1, 1]", "0"]


def test_the_list_is_what_container_engines_read() -> None:
    profile = json.loads(seccomp.PROFILE.read_bytes())
    assert set(profile) == {"defaultAction", "archMap", "syscalls"}
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    # Of opam's own sandbox, and of debuggers.
    assert not {"unshare", "clone", "clone3", "mount", "pivot_root", "ptrace"} & set(names)


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "LIBRARY", "libabsent.so.1")
    seccomp.program.cache_clear()
    with pytest.raises(InfrastructureError, match="apt-get install libseccomp2") as caught:
        seccomp.program(namespaces=True)
    assert caught.value.cause is Cause.SANDBOX
    assert "libseccomp2" in (sandbox.missing_tools() or "")
