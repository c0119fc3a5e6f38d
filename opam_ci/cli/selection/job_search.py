"""Finding one job of a testing by words of its id."""

from collections.abc import Iterator

from opam_ci.cli.selection.lookup import totals
from opam_ci.clients.index import AttemptFilter, JobFilter, Listings, Place, RevisionFilter
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey
from opam_ci.core.model import Frozen

_LISTED = 8
"""How many jobs are named if several match."""

_COMPARED = 200
"""Up to this many matching jobs, one that matches by whole words is preferred."""

_ATTEMPTS_READ = 1000


class JobSearch(Frozen):
    """A search for a job; every field narrows it.

    Attributes:
        words: Words of its id, or parts of them.
        job: Its id, in full.
        kind: Its kind.
        platform: Its platform.
        revdep: Its reverse dependency, with or without the version.
    """

    words: tuple[str, ...] = ()
    job: str | None = None
    kind: JobKind | None = None
    platform: str | None = None
    revdep: str | None = None

    def filters(self, testing: RevisionKey) -> Iterator[JobFilter]:
        """Yields filters of the index, the narrowest meaning of the words first.

        A word that is a kind of jobs means that kind: `build x.1` names one job, although that of
        a package `build-x.1` contains the same text.
        """
        whole = JobFilter(
            of=RevisionFilter(revision=testing),
            name=self.job,
            kind=self.kind,
            platform=self.platform,
            revdep=self.revdep,
        )
        if self.words and self.job is None:
            yield whole.model_copy(update={"name": " ".join(self.words)})
        kinds = [word for word in self.words if word in set(JobKind)]
        if len(kinds) == 1 and self.kind is None:
            others = tuple(word for word in self.words if word != kinds[0])
            yield whole.model_copy(update={"kind": JobKind(kinds[0]), "words": others})
        yield whole.model_copy(update={"words": self.words})


def find_job(index: Listings, testing: RevisionKey, title: str, wanted: JobSearch) -> JobRecord:
    """Finds the one job that matches a search.

    Args:
        index: The job index.
        testing: The testing of a head.
        title: Name of the pull request, for messages.
        wanted: The search.

    Raises:
        UsageError: There is none, or there are several.
        InfrastructureError: The index cannot be read.
    """
    for each in wanted.filters(testing):
        found = index.jobs(each, place=Place(limit=_COMPARED)).items
        if len(found) > 1:
            exact = [job for job in found if set(wanted.words) <= set(job.status.job.id.split())]
            found = tuple(exact) if len(exact) == 1 and len(found) < _COMPARED else found
        if len(found) == 1:
            return found[0]
        if found:
            number = index.counts(each).total
            named = sorted(job.status.job.id for job in found)[:_LISTED]
            more = f"; and {number - len(named):,} more" if number > len(named) else ""
            raise UsageError(
                f"{number:,} jobs of {title} match: {'; '.join(named)}{more}. Give more words, or "
                "narrow with --kind, --platform, --revdep or --job"
            )
    existing = index.counts(JobFilter(of=RevisionFilter(revision=testing)))
    raise UsageError(
        f"no job of {title} at {testing.head[:12]} matches; it has: {totals(existing)}. "
        f"`opam-ci jobs {title}` lists them"
    )


def attempts_of(index: Listings, record: JobRecord) -> tuple[AttemptRecord, ...]:
    """Reads the attempts of a job, oldest first.

    Raises:
        InfrastructureError: The index cannot be read.
    """
    wanted = AttemptFilter(of=RevisionFilter(revision=record.revision), job=record.status.job)
    found = index.attempts(wanted, place=Place(limit=_ATTEMPTS_READ)).items
    return tuple(sorted(found, key=lambda each: (each.round, each.number)))


def choose_attempt(
    attempts: tuple[AttemptRecord, ...], *, round_: int | None, number: int | None
) -> AttemptRecord | None:
    """Returns the last attempt, or the last one of a round or number; None before the first one.

    Raises:
        UsageError: There are attempts, but not that one.
    """
    matching = [
        each for each in attempts if round_ in {None, each.round} and number in {None, each.number}
    ]
    if matching:
        return matching[-1]
    if not attempts:
        return None
    existing = ", ".join(f"{each.number} of round {each.round}" for each in attempts)
    missing = " of ".join(
        f"{name} {value}"
        for name, value in (("attempt", number), ("round", round_))
        if value is not None
    )
    raise UsageError(f"{attempts[0].job.id} has no {missing}; there are attempts: {existing}")
