"""Waivers: failures that are known, and that do not count until some time."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from opam_ci.core.jobs.glob import (
    GLOB_LIMIT,
    is_glob,
    matches,
    matches_everything,
    matches_package,
    overlap,
    packages_overlap,
)
from opam_ci.core.jobs.job import COMPARED_KINDS, Job, JobKind
from opam_ci.core.jobs.outcome import (
    Failed,
    FailureReason,
    Readable,
    Skipped,
    SkipReason,
    WaiverRef,
)
from opam_ci.core.model import Frozen
from opam_ci.core.printable import flat

WAIVABLE_KINDS = COMPARED_KINDS
"""Kinds of jobs that a waiver can take: those that build packages, with the change."""

LONGEST = timedelta(days=180)
"""The longest time until a waiver expires: what is forgotten hides failures."""

ANNOUNCED = timedelta(days=7)
"""How long before and after its end a waiver is announced."""

REMEMBERED = timedelta(days=30)
"""How long after its end a waiver is listed, and named where it would have taken a failure."""

WAIVERS_LIMIT = 500
"""Waivers in force at a time; each is compared with each failure of a head."""

BECAUSE_LIMIT = 200
"""Characters of the reason that a waiver gives."""

LOGIN_LIMIT = 100
"""Characters of an account."""

_GROUP = re.compile("[0-9a-f]{16}")


class Waiver(Frozen):
    """A decision that failures do not count; what is None narrows nothing.

    Attributes:
        id: Its number in the index; 0 before it has one.
        package: Glob of the package that a job builds, see `core/jobs/glob.py`: of the reverse
            dependency, if it is on one.
        platform: Glob of the platform's name.
        kind: What the job does.
        reason: What about the package is at fault.
        cause_group: With what the failure is grouped, see `core/pages/causes.py`.
        because: Why it does not count.
        login: Who decided that.
        created_at: When.
        expires_at: From when on such failures count again.
        removed_at: When it was removed before that, if it was.
    """

    id: int = 0
    package: str
    platform: str = "*"
    kind: JobKind | None = None
    reason: FailureReason | None = None
    cause_group: str | None = None
    because: Readable
    login: Readable
    created_at: AwareDatetime
    expires_at: AwareDatetime
    removed_at: AwareDatetime | None = None

    @property
    def ends_at(self) -> datetime:
        """When it was removed, or else when it expires."""
        return self.removed_at or self.expires_at

    @property
    def ref(self) -> WaiverRef:
        """What the jobs that it takes show of it."""
        return WaiverRef(
            id=self.id, login=self.login, because=self.because, expires_at=self.expires_at
        )

    @property
    def scope(self) -> str:
        """Which failures it takes, in words."""
        on = "" if self.platform == "*" else f" on {self.platform}"
        kind = "" if self.kind is None else f", {self.kind} jobs"
        reason = "" if self.reason is None else f", failed({self.reason})"
        group = "" if self.cause_group is None else f", group {self.cause_group}"
        return f"{self.package}{on}{kind}{reason}{group}"

    @property
    def scope_values(self) -> tuple[object, ...]:
        """Its scope: two waivers with equal ones take the same failures."""
        return self.package, self.platform, self.kind, self.reason, self.cause_group

    def takes(self, job: Job, reason: str, cause_group: str | None) -> bool:
        """Whether a failure is in its scope, whether or not it has expired.

        Args:
            job: The job.
            reason: The failure's.
            cause_group: The failure's.
        """
        return (
            job.kind in WAIVABLE_KINDS
            and self.kind in {None, job.kind}
            and self.reason in {None, reason}
            and self.cause_group in {None, cause_group}
            and matches(self.platform, job.platform)
            and matches_package(self.package, job.revdep or job.package)
        )

    def overlaps(self, other: "Waiver") -> bool:
        """Whether there can be a failure that both take."""
        pairs = zip(self.scope_values[2:], other.scope_values[2:], strict=True)
        return (
            all(one is None or two is None or one == two for one, two in pairs)
            and overlap(self.platform, other.platform)
            and packages_overlap(self.package, other.package)
        )


def waived(
    job: Job, outcome: Failed, cause_group: str | None, waivers: Iterable[Waiver], now: datetime
) -> Failed | Skipped:
    """Returns the verdict on a job that failed, with the waiver that takes it, if one does.

    One that is in force makes it a skip; one that has expired is named, and the job stays failed.

    Args:
        job: The job.
        outcome: The failure.
        cause_group: With what it is grouped.
        waivers: Those that were not removed. Of several the one that ends last is named.
        now: The time.
    """
    taking = [each for each in waivers if each.takes(job, outcome.reason, cause_group)]
    if not taking:
        return outcome
    last = max(taking, key=lambda each: (each.expires_at, -each.id))
    evidence = outcome.evidence.model_copy(update={"waiver": last.ref})
    if last.expires_at <= now:
        return outcome.model_copy(update={"evidence": evidence})
    return Skipped(reason=SkipReason.WAIVED, evidence=evidence)


def refusal(waiver: Waiver) -> str | None:
    """Returns why a waiver cannot be added, and what to do instead; None if it can."""
    if not waiver.because.strip() or len(waiver.because) > BECAUSE_LIMIT:
        return f"give in --because why they do not count, in {BECAUSE_LIMIT} characters at most"
    if not waiver.login.strip() or len(waiver.login) > LOGIN_LIMIT:
        return f"give in --by who decides that, in {LOGIN_LIMIT} characters at most"
    return _bad_scope(waiver) or _bad_end(waiver)


def _bad_scope(waiver: Waiver) -> str | None:
    for option, glob in (("package", waiver.package), ("platform", waiver.platform)):
        if not is_glob(glob):
            return (
                f"invalid glob {flat(glob)[:GLOB_LIMIT]!r} of a {option}: write a name, with * for "
                f"any text and ? for any character, {GLOB_LIMIT} characters at most"
            )
    if waiver.kind is not None and waiver.kind not in WAIVABLE_KINDS:
        kinds = ", ".join(sorted(WAIVABLE_KINDS))
        return f"failures of {waiver.kind} jobs cannot be waived, only those of {kinds}"
    if waiver.cause_group is not None and not _GROUP.fullmatch(waiver.cause_group):
        return "invalid group: it is what follows `group:` in the filter of a page"
    is_wide = matches_everything(waiver.package) and matches_everything(waiver.platform)
    if is_wide and waiver.reason is None and waiver.cause_group is None:
        return (
            "the waiver would take every failure of every package: name a package, a platform, "
            "--reason or --group"
        )
    return None


def _bad_end(waiver: Waiver) -> str | None:
    if waiver.expires_at <= waiver.created_at:
        return (
            f"the waiver would have expired on {waiver.expires_at:%d %B %Y at %H:%M} UTC: give "
            "--until a date to come, or a time such as 30d"
        )
    if waiver.expires_at - waiver.created_at > LONGEST:
        return (
            f"the waiver would last until {waiver.expires_at:%d %B %Y}: {LONGEST.days} days are "
            "the most; renew it when it ends"
        )
    return None


def duplicate(waiver: Waiver, others: Iterable[Waiver]) -> str | None:
    """Returns that another waiver that is in force has the same scope; None if none has."""
    for each in others:
        if waiver.scope_values == each.scope_values and each.ends_at > waiver.created_at:
            return (
                f"waiver {each.id} by {each.login}, of {each.created_at:%d %B %Y}, takes the same "
                f"until {each.expires_at:%d %B %Y} ({each.because}): "
                f"`opam-ci waivers remove {each.id}` removes it"
            )
    return None
