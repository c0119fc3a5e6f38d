"""Facts about a failure of package code, where the words of its log prove nothing."""

from collections.abc import Awaitable, Callable

from opam_ci.clients.runners import report, steps
from opam_ci.clients.runners.executor import Executor
from opam_ci.clients.runners.supervise import Ended
from opam_ci.clients.runners.transcript import Transcript
from opam_ci.core.build_keys import has_checksums
from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.classify.machine import OPAM_SANDBOX
from opam_ci.core.classify.sources import SOURCES_FIXED

_PROBE_TIMEOUT = 60.0
"""Seconds for a command that does nothing in a sandbox, 20 ms of work, on a very busy machine."""


async def sandbox_works(
    executor: Executor, transcript: Transcript, *, own_processes: bool
) -> dict[str, bool]:
    """Probes whether a sandbox like opam's still starts in the build root.

    Args:
        executor: The build root, after the failure.
        transcript: Of the job; says for which phase it is.
        own_processes: Whether opam's sandbox has a PID namespace of its own there.
    """
    probed = await executor.run(
        steps.opam_sandbox_probe(own_processes=own_processes),
        output=transcript.output,
        phase=transcript.phase,
        time_limit=_PROBE_TIMEOUT,
    )
    return {OPAM_SANDBOX: probed.ok}


async def sources_fixed(
    ended: Ended,
    found: report.OpamReport | None,
    read: Callable[..., Awaitable[dict[str, bytes]]],
) -> dict[str, bool]:
    """Looks whether opam wanted sources again that it cannot keep, for want of a checksum.

    Args:
        ended: How opam ended.
        found: Its report.
        read: Reads the opam files of packages, by full name.
    """
    if ended.exit_code != OpamExit.SYNC_ERROR or found is None:
        return {}
    wanted = sorted({each.package for each in found.actions if each.action == "fetch"})
    return {SOURCES_FIXED: all(map(has_checksums, (await read(*wanted)).values()))}
