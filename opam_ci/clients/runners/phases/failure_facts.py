"""Facts about a failure of package code, whose log proves nothing."""

from opam_ci.clients.runners.phases import report, steps
from opam_ci.clients.runners.phases.executor import Executor, Read
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.classify.machine import OPAM_SANDBOX
from opam_ci.core.classify.sources import SOURCES_FIXED
from opam_ci.core.jobs.build_keys import has_checksums

_PROBE_TIMEOUT = 60.0
"""Seconds for an empty command in a sandbox, which takes 20 ms on an idle machine."""


async def sandbox_works(
    executor: Executor,
    transcript: Transcript,
    *,
    own_processes: bool,
    sandbox: steps.OpamSandbox = steps.OpamSandbox.BUBBLEWRAP,
) -> dict[str, bool]:
    """Probes whether a sandbox like opam's still starts in the build root.

    Args:
        executor: The build root, after the failure.
        transcript: The job's log, in the phase that failed.
        own_processes: Whether opam's sandbox has a PID namespace of its own there.
        sandbox: opam's sandbox there.
    """
    if sandbox is steps.OpamSandbox.NONE:
        return {}
    probed = await executor.run(
        steps.opam_sandbox_probe(own_processes=own_processes, sandbox=sandbox),
        output=transcript.output,
        phase=transcript.phase,
        time_limit=_PROBE_TIMEOUT,
    )
    return {OPAM_SANDBOX: probed.ok}


async def sources_fixed(
    ended: ProcessResult,
    found: report.OpamReport | None,
    read: Read,
) -> dict[str, bool]:
    """Finds out whether opam fetched sources again that it cannot keep, for want of a checksum.

    Args:
        ended: How opam ended.
        found: Its report.
        read: Reads the opam files of packages, by full name.
    """
    if ended.exit_code != OpamExit.SYNC_ERROR or found is None:
        return {}
    wanted = sorted({each.package for each in found.actions if each.action == "fetch"})
    return {SOURCES_FIXED: all(map(has_checksums, (await read(*wanted)).values()))}
