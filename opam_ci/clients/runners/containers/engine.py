"""Calling a container engine: podman or docker, and how they differ."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from opam_ci.clients import programs
from opam_ci.clients.runners.sandbox import seccomp
from opam_ci.clients.runners.sandbox.process import LastOutput
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

_CALL_TIMEOUT = 60.0
_STDERR_LIMIT = 400

_OUTPUT_LIMIT = 64 << 20
"""Bytes of a call's output. Programs of an image make some of it; the largest that is needed, the
list of Debian packages, has a limit of 32 MiB."""

_CHUNK = 1 << 16

# Variables of the worker's environment that the client itself needs; not passed to containers.
_CLIENT_ENVIRONMENT = (
    "CONTAINERS_REGISTRIES_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "HOME",
    "REGISTRY_AUTH_FILE",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
)


class Engine:
    """One container engine.

    Args:
        client: Name or path of its client, `podman` or `docker`.
        runtime: Its low-level runtime; None for its own choice, and for podman runc where the
            machine mounts version 1 of cgroups.

    Attributes:
        client: The client: its name, or its absolute path.
    """

    def __init__(self, client: str, runtime: str | None = None) -> None:
        # It is started in other directories than this process's own.
        self.client = client if client == Path(client).name else str(Path(client).absolute())
        self._is_podman = Path(client).name.startswith("podman")
        # crun refuses hosts on which both versions of cgroups are mounted; runc does not.
        unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        default = "runc" if self._is_podman and not unified and shutil.which("runc") else None
        self._runtime = runtime or default

    @property
    def run_options(self) -> tuple[str, ...]:
        """Options of `run` for security, and those that differ between the engines.

        The nested sandbox of opam needs system calls that docker's own profile forbids; podman's
        permits some that ours forbids. podman passes the worker's proxy settings to containers by
        default.
        """
        filtered = ("--security-opt", f"seccomp={seccomp.PROFILE}")
        if self._is_podman:
            return (*filtered, "--http-proxy=false")
        runtime = () if self._runtime is None else ("--runtime", self._runtime)
        return (*runtime, *filtered, "--security-opt", "apparmor=unconfined")

    def command(self, *arguments: str) -> list[str]:
        """Returns the command line of a call."""
        runtime = ("--runtime", self._runtime) if self._is_podman and self._runtime else ()
        kept = [f"{name}={os.environ[name]}" for name in _CLIENT_ENVIRONMENT if name in os.environ]
        quiet = "PODMAN_IGNORE_CGROUPSV1_WARNING=1"
        return ["env", quiet, *kept, self.client, *runtime, *arguments]

    def removal(self, name: str) -> tuple[str, ...]:
        """Returns the arguments that end a container at once and remove it."""
        at_once = ("--time", "0") if self._is_podman else ()
        return ("rm", "--force", *at_once, name)

    def missing(self) -> str | None:
        """Returns how to install the engine's client, or None if it is installed."""
        if shutil.which(self.client) is not None:
            return None
        sudo = "" if os.geteuid() == 0 else "sudo "
        return (
            f"this machine has no {self.client}: {sudo}apt-get install podman, or choose another "
            "engine with OPAM_CI_CONTAINER_COMMAND"
        )

    def require(self) -> None:
        """Checks that the engine's client is installed.

        Raises:
            InfrastructureError: Cause `sandbox`, with what to install.
        """
        if missing := self.missing():
            raise InfrastructureError(missing, cause=Cause.SANDBOX)

    async def start(
        self, *arguments: str, stdin: int, stderr: int, directory: Path | None = None
    ) -> asyncio.subprocess.Process:
        """Starts the engine's client, with a pipe for its standard output.

        Args:
            arguments: Of the client.
            stdin: As in `subprocess`.
            stderr: As in `subprocess`.
            directory: Where it runs; None for this process's own.
        """
        return await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=programs.environment(),
            cwd=directory,
            start_new_session=True,
        )

    async def call(
        self,
        *arguments: str,
        time_limit: float = _CALL_TIMEOUT,
        cause: Cause = Cause.SANDBOX,
    ) -> bytes:
        """Calls the engine and returns its standard output.

        Raises:
            InfrastructureError: It failed, or did not end in time.
        """
        code, output, errors = await self.try_call(*arguments, time_limit=time_limit)
        if code != 0:
            how = "" if code is None else f" (exit {code})"
            raise InfrastructureError(
                f"{self.client} {arguments[0]} failed{how}: {errors}", cause=cause
            )
        return output

    async def try_call(
        self, *arguments: str, time_limit: float = _CALL_TIMEOUT
    ) -> tuple[int | None, bytes, str]:
        """Calls the engine.

        Returns:
            Exit code (None after the time limit, or with too much output), standard output, and
            the end of standard error.
        """
        process = await self.start(
            *arguments, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None  # noqa: S101 - for mypy: both are pipes
        assert process.stderr is not None  # noqa: S101
        errors = asyncio.create_task(_end(process.stderr))
        try:
            async with asyncio.timeout(time_limit):
                output = await _start(process.stdout)
                if len(output) > _OUTPUT_LIMIT:
                    return None, b"", f"over {_OUTPUT_LIMIT >> 20} MiB of output"
                code = await process.wait()
                text = await errors
        except TimeoutError:
            return None, b"", f"no answer within {time_limit:g} s"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    # Its helpers too: they would keep the pipes open.
                    os.killpg(process.pid, signal.SIGKILL)
            errors.cancel()
            await asyncio.wait({errors})
            # What is left in the pipes; only then does asyncio close them.
            await process.communicate()
        return code, output, text

    async def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """Returns the engine's description of an `image` or a `container`, or None."""
        code, output, _ = await self.try_call(kind, "inspect", name)
        if code != 0:
            return None
        found: dict[str, Any] = json.loads(output)[0]
        return found


async def _start(stream: asyncio.StreamReader) -> bytes:
    """Reads a stream, until there is more than `_OUTPUT_LIMIT`."""
    data = bytearray()
    while len(data) <= _OUTPUT_LIMIT and (chunk := await stream.read(_CHUNK)):
        data += chunk
    return bytes(data)


async def _end(stream: asyncio.StreamReader) -> str:
    """Reads a stream, and returns what its last `_STDERR_LIMIT` bytes say."""
    last = LastOutput(_STDERR_LIMIT)
    while chunk := await stream.read(_CHUNK):
        last(chunk)
    return last.text
