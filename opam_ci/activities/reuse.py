"""Planning with what is known: a job with the same inputs as one that ran takes its verdict."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pydantic import ValidationError

from opam_ci.clients.git.exported import reach_key
from opam_ci.clients.index import Index
from opam_ci.clients.index.baseline import PassedJob
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.clients.threads import INDEX
from opam_ci.core.jobs.build import RevdepList, listing_key
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import FailedWithout
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.records import RevisionKey, revision_folder
from opam_ci.core.jobs.requests import Surroundings
from opam_ci.core.platforms.model import Platform
from opam_ci.core.reuse.plan_key import Keys
from opam_ci.core.reuse.reach import Reachable
from opam_ci.core.reuse.settled import is_audited

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _OnPlatform:
    keys: Keys
    image: str | None


class Reuse:
    """Gives planned jobs their plan keys, and verdicts that hold for them.

    Args:
        index: Has the verdicts.
        store: Has listings of reverse dependencies.
        testing: For which jobs are planned.
        platforms: What is known of each, by its name; none for no keys.
        audited_percent: How many jobs run although a verdict holds.

    Attributes:
        listings: Of those jobs that took the verdict of a listing: their reverse dependencies are
            to be planned, too.
        reused: How many jobs took a verdict.
    """

    def __init__(
        self,
        index: Index,
        store: ArtifactStore,
        testing: RevisionKey,
        platforms: dict[str, _OnPlatform],
        audited_percent: int,
    ) -> None:
        self._index = index
        self._store = store
        self._testing = revision_folder(testing)
        self._platforms = platforms
        self._audited_percent = audited_percent
        self.listings: dict[Job, RevdepList] = {}
        self.reused = 0

    @classmethod
    async def of(  # noqa: PLR0913 - what is known of a head, and who knows it
        cls,
        testing: RevisionKey,
        surroundings: Surroundings | None,
        platforms: Iterable[Platform],
        index: Index,
        store: ArtifactStore,
        *,
        submitted: tuple[str, ...] = (),
        takes_verdicts: bool = True,
        on_base: bool = False,
    ) -> Self:
        """Reads what the keys of a head's jobs are made of.

        Where that is missing or cannot be read, all jobs run.

        Args:
            testing: For which jobs are planned.
            surroundings: What they have in common; None for no keys.
            platforms: Each in the pool that was chosen for it.
            index: The index.
            store: The store.
            submitted: Packages that the head itself builds.
            takes_verdicts: Whether jobs may take verdicts: a restart always runs its jobs.
            on_base: Whether the jobs are those on the base.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        known: dict[str, _OnPlatform] = {}
        reachable = None
        if surroundings is not None and (platforms := tuple(platforms)):
            reachable = await _reachable(store, testing, reach_key(testing, on_base=on_base))
        if reachable is not None and surroundings is not None:
            for one in platforms:
                keys = Keys(reachable, one, surroundings, submitted)
                image = await INDEX.run(index.image_of, one.name, one.pool)
                # A key is written down in any case: a later testing may use the verdict.
                known[one.name] = _OnPlatform(keys, image if takes_verdicts else None)
        audited = 0 if surroundings is None else surroundings.audited_percent
        return cls(index, store, testing, known, audited)

    async def complete(self, jobs: Iterable[PlannedJob], now: datetime) -> list[PlannedJob]:
        """Returns jobs with their keys, and with verdicts where some hold.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        keyed = [self._keyed(each) for each in jobs]
        verdicts: dict[str, KnownVerdict] = {}
        for name, on in self._platforms.items():
            wanted = {
                each.plan_key for each in keyed if each.plan_key and each.job.platform == name
            }
            if on.image is not None and wanted:
                verdicts |= await INDEX.run(self._index.settled, wanted, on.image, now)
        return [await self._with_verdict(each, verdicts) for each in keyed]

    async def failing(self, passed: Iterable[PassedJob], now: datetime) -> dict[str, FailedWithout]:
        """Returns how jobs fail on the base, by the job's id, as far as that is known.

        Args:
            passed: Jobs that passed with the change; this one is of those on the base.
            now: The time.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        wanted: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for each in passed:
            on_base = each.job.on_base
            key = None if on_base is None else self._key(on_base)
            # With the same inputs it does not fail.
            if key is not None and key != each.plan_key:
                wanted[each.job.platform][key].append(each.job.id)
        found: dict[str, FailedWithout] = {}
        for name, keys in wanted.items():
            if (image := self._platforms[name].image) is not None:
                failing = await INDEX.run(self._index.failing, keys, image, now)
                found |= {job: how for key, how in failing.items() for job in keys[key]}
        return found

    def _keyed(self, planned: PlannedJob) -> PlannedJob:
        key = self._key(planned.job)
        return planned if key is None else planned.model_copy(update={"plan_key": key})

    def _key(self, job: Job) -> str | None:
        on = self._platforms.get(job.platform)
        return None if on is None else on.keys.of(job)

    async def _with_verdict(
        self, planned: PlannedJob, verdicts: dict[str, KnownVerdict]
    ) -> PlannedJob:
        key = planned.plan_key
        if key is None or (verdict := verdicts.get(key)) is None:
            return planned
        if is_audited(key, self._testing, self._audited_percent):
            return planned.model_copy(update={"audits": verdict.label})
        if planned.job.kind is JobKind.LIST_REVDEPS and verdict.outcome.kind == "passed":
            listing = await self._listing(verdict)
            if listing is None:
                return planned
            self.listings[planned.job] = listing
        self.reused += 1
        return planned.model_copy(update={"verdict": verdict})

    async def _listing(self, verdict: KnownVerdict) -> RevdepList | None:
        if verdict.log is None:
            return None
        try:
            return RevdepList.model_validate_json(await self._store.get(listing_key(verdict.log)))
        except (MissingKeyError, ValidationError):
            return None


async def _reachable(store: ArtifactStore, testing: RevisionKey, key: str) -> Reachable | None:
    try:
        return Reachable.model_validate_json(await store.get(key))
    except (InfrastructureError, ValidationError) as error:
        _log.warning("no verdict is used again at %s: %s", testing.head, error)
        return None
