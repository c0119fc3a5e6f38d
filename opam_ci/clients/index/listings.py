"""What can be read of an index also by those who have none: a server lists the same."""

from typing import Protocol

from opam_ci.clients.index.filters import AttemptFilter, JobFilter, RevisionFilter
from opam_ci.clients.index.paging import Page, Place
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey, RevisionRecord
from opam_ci.core.jobs.summary import Counts, Summary


class Listings(Protocol):
    """The job index, or a server with one (`clients/remote/server.py`)."""

    def revisions(self, wanted: RevisionFilter, *, place: Place) -> Page[RevisionRecord]:
        """Lists testings of heads, last changed first."""

    def jobs(self, wanted: JobFilter, *, place: Place) -> Page[JobRecord]:
        """Lists jobs, last changed first."""

    def attempts(self, wanted: AttemptFilter, *, place: Place) -> Page[AttemptRecord]:
        """Lists attempts, last started first."""

    def summary(self, key: RevisionKey) -> Summary | None:
        """Returns the state of a testing; None if there is none."""

    def counts(self, wanted: JobFilter) -> Counts:
        """Counts jobs by standing."""
