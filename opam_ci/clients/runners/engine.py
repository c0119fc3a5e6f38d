"""Calling a container engine: podman or docker, and what is different about them."""

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from opam_ci.clients.runners.settings import ContainerSettings
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause

_CALL_TIMEOUT = 60.0
_STDERR_LIMIT = 400

# What the client itself needs of the worker's environment. None of it reaches a container.
_CLIENT_ENVIRONMENT = (
    "CONTAINERS_STORAGE_CONF",
    "CONTAINER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
)


class Engine:
    """One container engine.

    Args:
        settings: Which, and how it is called.
    """

    def __init__(self, settings: ContainerSettings) -> None:
        self._command = settings.command
        self._runtime = settings.runtime or self._default_runtime()

    @property
    def _is_podman(self) -> bool:
        return Path(self._command).name.startswith("podman")

    def _default_runtime(self) -> str | None:
        # crun refuses hosts on which both versions of cgroups are mounted; runc does not.
        unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        return "runc" if self._is_podman and not unified and shutil.which("runc") else None

    @property
    def run_options(self) -> tuple[str, ...]:
        """Options of `run` on which the engines differ.

        The nested sandbox of opam needs system calls that docker's profile forbids and
        podman's permits; podman hands the worker's proxy settings to containers unless told
        otherwise.
        """
        if self._is_podman:
            return ("--http-proxy=false",)
        runtime = () if self._runtime is None else ("--runtime", self._runtime)
        unconfined = ("--security-opt", "seccomp=unconfined", "--security-opt")
        return (*runtime, *unconfined, "apparmor=unconfined")

    def words(self, *arguments: str) -> list[str]:
        """Returns the command line of a call."""
        runtime = ("--runtime", self._runtime) if self._is_podman and self._runtime else ()
        kept = [f"{name}={os.environ[name]}" for name in _CLIENT_ENVIRONMENT if name in os.environ]
        quiet = "PODMAN_IGNORE_CGROUPSV1_WARNING=1"
        return ["env", quiet, *kept, self._command, *runtime, *arguments]

    def removal(self, name: str) -> tuple[str, ...]:
        """Returns the arguments that end a container at once and remove it."""
        at_once = ("--time", "0") if self._is_podman else ()
        return ("rm", "--force", *at_once, name)

    def missing(self) -> str | None:
        """Returns what to do where the engine's client is not installed, None where it is."""
        if shutil.which(self._command) is not None:
            return None
        return (
            f"this machine has no {self._command}: install it, or choose another with "
            "OPAM_CI_CONTAINER_COMMAND"
        )

    def require(self) -> None:
        """Checks that the engine's client is installed.

        Raises:
            InfrastructureError: Cause `sandbox`, with what to install.
        """
        if missing := self.missing():
            raise InfrastructureError(missing, cause=Cause.SANDBOX)

    async def call(
        self,
        *arguments: str,
        time_limit: float = _CALL_TIMEOUT,
        stdin: IO[bytes] | None = None,
        cause: Cause = Cause.SANDBOX,
    ) -> bytes:
        """Calls the engine and returns its standard output.

        Raises:
            InfrastructureError: It failed, or did not answer in time.
        """
        code, output, said = await self.try_call(*arguments, time_limit=time_limit, stdin=stdin)
        if code != 0:
            raise InfrastructureError(
                f"{self._command} {arguments[0]} ended with {code}: {said}", cause=cause
            )
        return output

    async def try_call(
        self, *arguments: str, time_limit: float = _CALL_TIMEOUT, stdin: IO[bytes] | None = None
    ) -> tuple[int | None, bytes, str]:
        """Calls the engine.

        Returns:
            Exit code (None for a call that took too long), standard output, and the end of
            standard error.
        """
        process = await asyncio.create_subprocess_exec(
            *self.words(*arguments),
            stdin=stdin if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(time_limit):
                output, said = await process.communicate()
        except TimeoutError:
            return None, b"", f"no answer within {time_limit:g} s"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode, output, said.decode(errors="replace").strip()[-_STDERR_LIMIT:]

    async def inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        """Returns what the engine knows about an `image` or a `container`; None if nothing."""
        code, output, _ = await self.try_call(kind, "inspect", name)
        if code != 0:
            return None
        found: dict[str, Any] = json.loads(output)[0]
        return found
