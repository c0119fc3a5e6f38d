"""How pages show a standing: a glyph, a letter and a word beside the colour."""

from typing import Final, NamedTuple

from opam_ci.core.jobs.summary import Standing, State


class Glyph(NamedTuple):
    """What stands for a standing, in this order by preference for room.

    Attributes:
        sign: One character that is no emoji, so that it takes the colour of the text.
        letter: One letter, different for each.
        name: What it is called.
    """

    sign: str
    letter: str
    name: str


GLYPHS: Final = {
    Standing.FAILED: Glyph("✘", "F", "failed"),
    Standing.ERRORED: Glyph("▲", "E", "errored: the CI's fault"),
    Standing.RETRYING: Glyph("↻", "T", "retrying: the CI's fault"),
    Standing.RUNNING: Glyph("▶", "R", "running"),
    Standing.QUEUED: Glyph("○", "Q", "queued"),
    Standing.CANCELLED: Glyph("⊘", "C", "cancelled"),
    Standing.SKIPPED: Glyph("–", "S", "skipped"),  # noqa: RUF001 - a dash, as in tables
    Standing.PASSED: Glyph("✔", "P", "passed"),
}
"""The worst first."""

STATES: Final = {
    State.SUCCESS: Glyph("✔", "P", "success"),
    State.FAILURE: Glyph("✘", "F", "failure"),
    State.ERROR: Glyph("▲", "E", "error: the CI's fault"),
    State.PENDING: Glyph("▶", "R", "pending"),
}
