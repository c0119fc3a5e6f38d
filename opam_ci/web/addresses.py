"""Addresses of pages: made from records, and read from requests."""

import re
from urllib.parse import quote, unquote

from pydantic import ValidationError
from starlette.requests import Request

from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.web.problems import PageError

_HIGHEST = 2**31 - 1
"""The largest number of a pull request that every database compares."""

_SHORT = re.compile(r"[0-9a-f]{7,64}")

_SAFE = "/@~+:!"
"""Characters that stay as they are in paths of ours, beside letters, digits and `_.-`."""


def path(text: str) -> str:
    """Returns a path as it is in links: for a browser, without a meaning of its own."""
    return quote(text, safe=_SAFE)


def repository_path(repository: str) -> str:
    """Returns the part of a path that names a repository."""
    return f"/{path(repository)}"


def target_path(repository: str, target: str) -> str:
    """Returns the path of a pull request's page, or of a branch's of a local clone.

    Args:
        repository: `owner/name`.
        target: `pull/30203` or `heads/some-branch`.
    """
    return f"{repository_path(repository)}/{path(target)}"


def commit_path(repository: str, head: str) -> str:
    """Returns the path of the page of one head, which stays when a newer one comes."""
    return f"{repository_path(repository)}/commit/{path(head)}"


def job_path(head: str, job: str) -> str:
    """Returns the path of a job's page.

    Args:
        head: Path of the page of its head.
        job: The job's id.
    """
    return f"{head}/job/{quote(job_name(job), safe='@~+,=:')}"


def package_path(package: str) -> str:
    """Returns the path of a package's page, by its name with or without a version."""
    return f"/package/{quote(package, safe='+~')}"


def job_name(job: str) -> str:
    """Returns a job's name in addresses, such as `build,debian-13-ocaml-5.3@amd64,cppo.1.8.0`.

    Each id has another one, whatever names of packages are in it: what stands for a space or a
    slash is escaped first.

    Args:
        job: The job's id.
    """
    for char in "%@,":
        job = job.replace(char, f"%{ord(char):02X}")
    return job.replace("/", "@").replace(" ", ",")


def job_id(name: str) -> str:
    """Reads a job's name in an address.

    Raises:
        ValueError: It is not the name of a job.
    """
    job = unquote(name.replace("@", "/").replace(",", " "), errors="strict")
    if job_name(job) != name:
        raise ValueError(name)
    return job


def requested_pull_request(request: Request) -> PullRequestRef:
    """Reads which pull request, or branch of a local clone, a request is about.

    Raises:
        PageError: No pull request can have this address.
    """
    parts = request.path_params
    number = parts.get("number")
    try:
        if number is not None and not 1 <= number <= _HIGHEST:
            raise ValueError(number)  # noqa: TRY301 - one answer for all that is no name
        return PullRequestRef(
            owner=parts["owner"], repo=parts["repo"], number=number, branch=parts.get("branch")
        )
    except (ValueError, ValidationError) as error:
        raise _unknown("pull request") from error


def requested_repository(request: Request) -> str:
    """Reads which repository a request is about.

    Raises:
        PageError: No repository can have this name.
    """
    parts = request.path_params
    try:
        ref = PullRequestRef(owner=parts["owner"], repo=parts["repo"], number=1)
    except ValidationError as error:
        raise _unknown("repository") from error
    return f"{ref.owner}/{ref.repo}"


def requested_commit(request: Request) -> str:
    """Reads the commit that a request is about, in full or its first seven digits or more.

    Raises:
        PageError: It is not a commit.
    """
    commit: str = request.path_params["commit"]
    if _SHORT.fullmatch(commit) is None:
        raise _unknown("commit")
    return commit


def requested_job(request: Request) -> str:
    """Reads the id of the job that a request is about.

    Raises:
        PageError: No job can have this address.
    """
    try:
        return job_id(request.path_params["job"])
    except ValueError as error:  # also that of bytes that are not UTF-8
        raise _unknown("job") from error


def _unknown(what: str) -> PageError:
    return PageError(
        404, f"No such {what}", f"No {what} has this address: check it, or start from the list."
    )
