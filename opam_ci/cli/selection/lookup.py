"""What users name on the command line: pull requests, their heads, incidents."""

import re
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from opam_ci.clients.git.repository import Repository
from opam_ci.clients.index import Index, Listings, RevisionFilter, all_items
from opam_ci.core.errors import UsageError
from opam_ci.core.incidents.model import Incident
from opam_ci.core.jobs.records import RevisionRecord
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import Counts

_TARGET = re.compile(
    r"(?:pr/)?(?P<owner>[A-Za-z0-9_.-]+)/(?P<repo>[A-Za-z0-9_.-]+)"
    r"(?:[#/](?P<rest>.+)|:(?P<branch>.+))"
)
_HEAD = re.compile(r"[0-9a-f]{4,64}")
_HEADS_NAMED = 8

_ORDER = (
    "failed", "errored", "retrying", "running", "queued", "cancelled", "skipped", "passed",
)  # fmt: skip
"""The order in which numbers of jobs are printed: what needs attention first."""


class Target(NamedTuple):
    """A pull request, or a branch of a local clone.

    Attributes:
        repository: Such as `ocaml/opam-repository`.
        number: Of a pull request; None for a branch.
        branch: Its name; None where only the slug of a long or strange name is known.
        slug: As in `PullRequestRef`.
    """

    repository: str
    number: int | None
    branch: str | None
    slug: str

    @property
    def workflow_id(self) -> str:
        """The workflow that tests it."""
        return f"pr/{self.repository}/{self.slug}"

    @property
    def title(self) -> str:
        """Its name on the command line."""
        return f"{self.repository}/{self.slug}"


def target_of(text: str) -> Target:
    """Parses `OWNER/REPO/NUMBER`, `OWNER/REPO#NUMBER`, or a branch of a local clone.

    A branch is `OWNER/REPO/heads/BRANCH`, `OWNER/REPO:BRANCH`, or the `branch-…` of
    `opam-ci status`.

    Raises:
        UsageError: It is none of these.
    """
    found = _TARGET.fullmatch(text)
    if found is None:
        raise _not_a_pull_request(text)
    rest, branch, number = found["rest"] or "", found["branch"], None
    if rest.isascii() and rest.isdecimal():
        number = int(rest[:20])
    elif rest.startswith("heads/"):
        branch = rest.removeprefix("heads/")
    repository = f"{found['owner']}/{found['repo']}"
    if number is None and branch is None:
        if re.fullmatch(r"branch-[A-Za-z0-9_.-]+", rest) is None:
            raise _not_a_pull_request(text)
        # The hash at the end of a slug replaces characters that a slug cannot have.
        plain = re.search(r"-[0-9a-f]{8}$", rest) is None
        name = rest.removeprefix("branch-") if plain else None
        return Target(repository, None, name, rest)
    try:
        ref = PullRequestRef(owner=found["owner"], repo=found["repo"], number=number, branch=branch)
    except ValidationError as error:
        raise _not_a_pull_request(text) from error
    return Target(repository, number, branch, ref.slug)


def find_testing(index: Listings, target: Target, head: str | None = None) -> RevisionRecord:
    """Finds the newest testing of a pull request, or the one of an older head.

    Args:
        index: The job index, or a server.
        target: The pull request.
        head: A commit's hash or its beginning; None for the newest head.

    Raises:
        UsageError: There is none, or several heads begin with these characters.
        InfrastructureError: The index cannot be read.
    """
    found = _testings(index, target)
    if not found:
        raise UsageError(
            f"no test of {target.title} in the index (yet); `opam-ci status` lists the checks "
            "of this server"
        )
    newest = max(found, key=_opened_at)
    if head is None:
        return newest
    wanted = head_of(head)
    heads = list(dict.fromkeys(each.key.head for each in sorted(found, key=_opened_at)))[::-1]
    matching = [each for each in heads if each.startswith(wanted)]
    if len(matching) != 1:
        some = ", ".join(each[:12] for each in (matching or heads)[:_HEADS_NAMED])
        more = len(matching or heads) - _HEADS_NAMED
        raise UsageError(
            f"{len(matching) or 'no'} tested heads of {target.title} begin with {wanted}; there "
            f"are: {some}" + (f" and {more} more" if more > 0 else "")
        )
    return max((each for each in found if each.key.head == matching[0]), key=_opened_at)


def _testings(index: Listings, target: Target) -> list[RevisionRecord]:
    wanted = RevisionFilter(
        repository=target.repository, number=target.number, branch=target.branch
    )
    found = list(all_items(lambda place: index.revisions(wanted, place=place)))
    if target.number is not None:
        return found
    owner, _, repo = target.repository.partition("/")
    return [
        each
        for each in found
        if each.key.branch is not None
        and PullRequestRef(owner=owner, repo=repo, branch=each.key.branch).slug == target.slug
    ]


def head_of(text: str) -> str:
    """Parses a commit's hash, or its beginning.

    Raises:
        UsageError: It is neither.
    """
    head = text.lower()
    if _HEAD.fullmatch(head) is None:
        raise UsageError(
            f"not a commit: {text!r}; give its hash, or the first seven characters of it"
        )
    return head


def base_and_head(
    repository: Repository, *, number: int | None, branch: str | None, base: str
) -> tuple[str, str]:
    """Finds the base and the head of a change in a local clone.

    Args:
        repository: The clone.
        number: Number of a pull request, open (fetched) or merged.
        branch: Without a number: a branch, tag or commit.
        base: Branch into which it is merged.

    Raises:
        UsageError: The clone lacks one of them.
    """
    if number is not None:
        found = repository.find_pull_request(number, base)
        return found.base, found.head
    return repository.resolve(base), repository.resolve(branch or "")


def find_incident(index: Index, number: int) -> Incident:
    """Reads an incident.

    Raises:
        UsageError: There is none with this number.
    """
    incident = index.incident(number)
    if incident is None:
        raise UsageError(f"no incident {number} (any more); `opam-ci incidents --all` lists them")
    return incident


def totals(counts: Counts) -> str:
    """Returns numbers of jobs as text, such as `120 failed, 9,877 passed`."""
    numbers = counts.model_dump()
    return ", ".join(f"{numbers[name]:,} {name}" for name in _ORDER if numbers[name]) or "no jobs"


def _opened_at(record: RevisionRecord) -> datetime:
    return record.key.opened_at


def _not_a_pull_request(text: str) -> UsageError:
    return UsageError(
        f"not a pull request: {text!r}; write OWNER/REPO/NUMBER as `opam-ci status` does, or "
        "OWNER/REPO/heads/BRANCH for a branch of a clone"
    )
