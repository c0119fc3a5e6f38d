"""Dependencies that failed to build on this machine, by the keys of their builds.

A file each, beside the cache of compiled dependencies. What cannot be read is not known, and what
cannot be written is not remembered: then jobs build it.
"""

import asyncio
import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from opam_ci.clients.runners.sandbox import safe_read as beneath
from opam_ci.clients.runners.sandbox.locks import modified_at
from opam_ci.clients.runners.sandbox.whole_file import write_whole
from opam_ci.core.classify.packages import DEPENDENCY_FAILED
from opam_ci.core.jobs.known_failure import FailedAlone, KnownFailure
from opam_ci.core.jobs.outcome import Failed, Outcome, SeenIn
from opam_ci.core.pages.causes import is_alike, is_shown_by
from opam_ci.core.reuse.known_failures import is_fresh, seen_again

_MOST = 2_000
"""Files; the failures that were used longest ago are removed."""

_FILE_LIMIT = 1 << 20
"""Bytes of a file: some lines of evidence, and names of packages."""

_log = logging.getLogger(__name__)


class FailureStore:
    """The known failures of one machine.

    Args:
        home: Their directory, made when it is needed.
        most: How many are kept.
    """

    def __init__(self, home: Path, most: int = _MOST) -> None:
        self._home = home
        self._most = most

    def find(self, key: str) -> KnownFailure | None:
        """Returns what is known of a build, None for nothing.

        Args:
            key: Of the build.
        """
        try:
            data = beneath.read(self._home, key, limit=_FILE_LIMIT)
            known = None if data is None else KnownFailure.model_validate_json(data)
            if (
                known is None
                or (known.key, known.package) != (key, known.outcome.blame)
                or not is_fresh(known.seen[0], datetime.now(UTC))
            ):
                return None
            os.utime(self._home / key)  # `_prune` goes by its age
        except (OSError, ValidationError):
            return None
        return known

    async def learn(self, failed: Iterable[FailedAlone], outcome: Outcome, seen: SeenIn) -> None:
        """Remembers the dependency for which a job failed, if it failed by itself, too.

        Args:
            failed: Dependencies that failed where only what they need was.
            outcome: The verdict of the job.
            seen: The attempt.
        """
        if not isinstance(outcome, Failed) or outcome.evidence.rule != DEPENDENCY_FAILED:
            return
        for alone in failed:
            if alone.package == outcome.blame:
                await asyncio.to_thread(self._add, alone, outcome, seen)

    def _add(self, alone: FailedAlone, outcome: Failed, seen: SeenIn) -> None:
        # In the job itself, other packages may have changed what it printed.
        if not is_shown_by(outcome, alone.output):
            return
        new = KnownFailure(
            key=alone.key,
            package=alone.package,
            outcome=outcome,
            seen=(seen,),
            beside=alone.beside,
        )
        known = self.find(alone.key)
        alike = known is not None and is_alike(known.outcome, outcome)
        data = seen_again(known, new, alike=alike).model_dump_json()
        try:
            write_whole(self._home / alone.key, data.encode())
            self._prune()
        except OSError as error:
            _log.warning("that %s fails is not remembered: %s", alone.package, error)

    def forget(self, key: str) -> None:
        """Removes what is known of a build that has succeeded."""
        try:
            (self._home / key).unlink(missing_ok=True)
        except OSError as error:
            # It has a place in the cache now, which is looked at first.
            _log.warning("a known failure cannot be removed: %s", error)

    def clear(self) -> int:
        """Removes everything; returns how many there were.

        Raises:
            OSError: Something cannot be removed.
        """
        return self._prune(0)

    def _prune(self, most: int | None = None) -> int:
        files = sorted(self._home.iterdir(), key=modified_at) if self._home.is_dir() else []
        oldest = files[: max(0, len(files) - (self._most if most is None else most))]
        for path in oldest:
            path.unlink(missing_ok=True)
        return len(oldest)


def failure_store(home: Path) -> FailureStore:
    """Returns the known failures of a machine.

    Args:
        home: Directory of its images, layers and job roots.
    """
    return FailureStore(home / "failures")
