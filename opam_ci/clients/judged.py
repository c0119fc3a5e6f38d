"""What was judged, kept beside the log of each attempt: small, and gone with the log.

The object's key begins with the log's, so that whatever removes a log by its prefix removes
this too.
"""

from pydantic import ValidationError

from opam_ci.clients.logs import LogReader
from opam_ci.clients.store import ArtifactStore, MissingKeyError
from opam_ci.core.classify import cut
from opam_ci.core.classify.cut import HEAD_BYTES, TAIL_BYTES
from opam_ci.core.errors import InfrastructureError
from opam_ci.core.facts import BuildFacts
from opam_ci.core.job import Phase
from opam_ci.core.outcome import Cause
from opam_ci.core.replay import Judged


def judged_key(log: str) -> str:
    """Names the object beside a log."""
    return f"{log}/judged.json"


async def keep(store: ArtifactStore, log: str, judged: Judged) -> None:
    """Keeps what was judged beside its log.

    Raises:
        InfrastructureError: The store does not take it.
    """
    await store.put(judged_key(log), judged.model_dump_json().encode())


async def load(store: ArtifactStore, log: str) -> Judged | None:
    """Returns what was judged, None if nothing is kept (any more).

    Raises:
        InfrastructureError: The store cannot be read, or holds something else.
    """
    try:
        text = await store.get(judged_key(log))
    except MissingKeyError:
        return None
    try:
        return Judged.model_validate_json(text)
    except ValidationError as error:
        raise InfrastructureError(
            f"{judged_key(log)} is damaged: {str(error).splitlines()[0]}", cause=Cause.STORAGE
        ) from error


async def phase_texts(store: ArtifactStore, log: str, facts: BuildFacts) -> dict[Phase, str]:
    """Reads from a log the text of each phase, as the judge had it.

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
