"""The filter of system calls of every command in a build root.

`seccomp.json` is the one list, in the format that podman and docker read. For bubblewrap it is
compiled by libseccomp, which knows the numbers of every architecture. It names what no build
needs, since what builds do need is not known: all else is left to namespaces and limits.
"""

import ctypes
import errno
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

PROFILE = Path(__file__).with_name("seccomp.json")
"""The list, for container engines."""

LIBRARY = "libseccomp.so.2"

_CLONE_NEWUSER = 0x1000_0000
_NO_NAMESPACES: tuple[dict[str, Any], ...] = (
    {"names": ["unshare", "setns"], "errnoRet": errno.EPERM},
    {
        "names": ["clone"],
        "errnoRet": errno.EPERM,
        "args": [
            {
                "index": 0,
                "op": "SCMP_CMP_MASKED_EQ",
                "value": _CLONE_NEWUSER,
                "valueTwo": _CLONE_NEWUSER,
            }
        ],
    },
    # Its flags are in memory; programs fall back to clone(2).
    {"names": ["clone3"], "errnoRet": errno.ENOSYS},
)

# Of <seccomp.h>.
_ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF_0000, "SCMP_ACT_ERRNO": 0x0005_0000}
_OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}
_BAD_ARCHITECTURE = 2
_UNKNOWN = -1


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def is_installed() -> bool:
    """Returns whether this machine has libseccomp."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


@functools.cache
def program(*, namespaces: bool, sockets_of_32_bits: bool = False) -> bytes:
    """Returns the list as a program for this machine's kernel.

    Args:
        namespaces: Whether user namespaces can be made, as opam's sandbox does. In one of its own,
            root of a build root could mount what lists settings of the machine, as their owner.
        sockets_of_32_bits: Whether programs of 32 bits can make sockets, of any kind: i386's C
            library makes them by socketcall(2), whose arguments no filter can read.

    Raises:
        InfrastructureError: Cause `sandbox`: libseccomp is missing, or too old for the list.
    """
    try:
        profile = json.loads(PROFILE.read_bytes())
        if not namespaces:
            profile["syscalls"] += _NO_NAMESPACES
        return _compile(profile, sockets_of_32_bits)
    except OSError as error:
        raise InfrastructureError(
            f"the filter of system calls cannot be made ({error}): apt-get install libseccomp2",
            cause=Cause.SANDBOX,
        ) from error


def _compile(profile: Mapping[str, Any], sockets_of_32_bits: bool) -> bytes:  # noqa: FBT001 - of one caller
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    native = library.seccomp_arch_native()
    others = [
        _architecture(library, name)
        for each in profile["archMap"]
        if _architecture(library, each["architecture"]) == native
        for name in each["subArchitectures"]
    ]
    rules = profile["syscalls"]
    context = _context(library, profile, () if sockets_of_32_bits else others, rules)
    try:
        if sockets_of_32_bits and others:
            rules = [rule for rule in rules if "socket" not in rule["names"]]
            added = _context(library, profile, others, rules)
            _check(library.seccomp_arch_remove(added, native))
            # Which releases what is added.
            _check(library.seccomp_merge(context, added))
        descriptor = os.memfd_create("seccomp")
        try:
            _check(library.seccomp_export_bpf(context, descriptor))
            return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)
    finally:
        library.seccomp_release(context)


def _context(
    library: ctypes.CDLL,
    profile: Mapping[str, Any],
    others: Sequence[int],
    rules: Sequence[Mapping[str, Any]],
) -> ctypes.c_void_p:
    """Returns libseccomp's filter of the machine's own architecture and of others."""
    context = ctypes.c_void_p(library.seccomp_init(_ACTIONS[profile["defaultAction"]]))
    # x32 too: without this they would kill the process.
    refusal = ctypes.c_uint32(_ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS)
    _check(library.seccomp_attr_set(context, _BAD_ARCHITECTURE, refusal))
    for architecture in others:
        _check(library.seccomp_arch_add(context, architecture))
    for rule in rules:
        action = _ACTIONS["SCMP_ACT_ERRNO"] | rule["errnoRet"]
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == _UNKNOWN:
                raise OSError(f"{LIBRARY} does not know {name}")
            for conditions in _alternatives(rule.get("args", [])):
                _check(
                    library.seccomp_rule_add_array(
                        context, action, number, len(conditions), conditions
                    )
                )
    return context


def _architecture(library: ctypes.CDLL, name: str) -> int:
    found: int = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
    return found


def _alternatives(arguments: list[dict[str, Any]]) -> list[ctypes.Array[_Comparison]]:
    """Returns the conditions of each rule; as in runc, those on one argument are alternatives."""
    comparisons = [
        _Comparison(each["index"], _OPERATORS[each["op"]], each["value"], each.get("valueTwo", 0))
        for each in arguments
    ]
    distinct = len({each["index"] for each in arguments}) == len(arguments)
    groups = [comparisons] if distinct else [[each] for each in comparisons]
    return [(_Comparison * len(group))(*group) for group in groups]


def _check(result: int) -> None:
    # The multiplexer of i386 has one rule for several conditions of `socket`.
    if result not in (0, -errno.EEXIST):
        raise OSError(-result, os.strerror(-result))
