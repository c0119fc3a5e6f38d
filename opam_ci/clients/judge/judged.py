"""What was judged, stored with the end of each attempt's log: small, and deleted with the log."""

from pydantic import ValidationError

from opam_ci.clients.logs.format import LogEnd, damaged
from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.core.classify import cut
from opam_ci.core.classify.excerpt import HEAD_BYTES, TAIL_BYTES
from opam_ci.core.classify.replay import Judged
from opam_ci.core.jobs.facts import BuildFacts
from opam_ci.core.jobs.job import Phase


def keep(log: LogWriter, judged: Judged) -> None:
    """Stores what was judged with the end of its log."""
    log.note = judged.model_dump_json()


async def load(store: ArtifactStore, log: str) -> Judged | None:
    """Returns what was judged, None if nothing is stored (any more).

    Raises:
        InfrastructureError: The store cannot be read, or what it has is damaged.
    """
    return judged_of(await LogReader(store).end(log), log)


def judged_of(end: LogEnd | None, log: str) -> Judged | None:
    """Returns what was judged from the end of its log, None if that has nothing.

    Raises:
        InfrastructureError: What it has is damaged.
    """
    if end is None or not end.note:
        return None
    try:
        return Judged.model_validate_json(end.note)
    except ValidationError as error:
        raise damaged(f"what was judged of {log}", error) from error


async def phase_texts(store: ArtifactStore, log: str, facts: BuildFacts) -> dict[Phase, str]:
    """Reads the text of each phase from a log, as the judge had it.

    Raises:
        InfrastructureError: The store cannot be read.
    """
    reader = LogReader(store)
    texts = {}
    for run in facts.phases:
        start, end = run.log_start, run.log_end
        size = end - start
        if size <= HEAD_BYTES + TAIL_BYTES:
            data = await reader.read(log, start, end)
        else:
            head = await reader.read(log, start, start + HEAD_BYTES)
            data = head + await reader.read(log, end - TAIL_BYTES, end)
        texts[run.phase] = cut(data, size=size)
    return texts
