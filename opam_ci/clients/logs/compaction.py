"""Merging the segments of a closed log into a few pieces, and indexing its lines.

A reader meanwhile finds all of it: the first segment of a piece is replaced by the whole piece, and
the others are deleted last. If it is stopped in between, segments are left that the pieces contain.
"""

from opam_ci.clients.logs.format import compressed, lines_key, segment_key
from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.watch import mark_key
from opam_ci.clients.threads import STORE
from opam_ci.core.logs.line_index import LineCounter

PIECE_BYTES = 4 * 1024 * 1024
"""Of output in a piece: read in a moment, and sixteen of them in the longest log."""


async def compact(store: ArtifactStore, key: str) -> None:
    """Merges the segments of a closed log. One that has a single segment or none stays as it is.

    Raises:
        InfrastructureError: The store failed; the log can be read as before.
    """
    reader = LogReader(store)
    segments = await reader.segments(key)
    closed = await reader.end(key)
    if len(segments) <= 1 or closed is None:
        await store.delete(mark_key(key))
        return
    counter = LineCounter()
    pieces: dict[int, int] = {}
    merged = bytearray()
    starts = {each.offset for each in segments}

    async def store_piece() -> None:
        start = counter.position - len(merged)
        pieces[start] = len(merged)
        if any(start < each < counter.position for each in starts):
            await store.put(segment_key(key, start), await compressed(bytes(merged)))
        merged.clear()

    async for chunk in reader.chunks(key, 0, None, closed):
        cut = chunk.offset - counter.position
        if merged and (cut or len(merged) >= PIECE_BYTES or chunk.offset >= closed.last_offset):
            await store_piece()
        if cut:
            counter.gap(cut)
        await STORE.run(counter.feed, chunk.data)
        if chunk.offset < closed.last_offset or not closed.last_gzip:
            merged += chunk.data
    if merged:
        await store_piece()
    if cut := closed.size - counter.position:
        counter.gap(cut)
    index = counter.index(tuple(pieces)).model_dump_json().encode()
    await store.put(lines_key(key), await compressed(index))
    kept = {segment_key(key, start) for start in pieces}
    merged_keys = (each.key for each in segments if each.key not in kept)
    await store.delete(mark_key(key), *merged_keys)
