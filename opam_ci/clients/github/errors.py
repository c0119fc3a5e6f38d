"""The error for requests that GitHub refuses."""

from opam_ci.core.errors import OpamCiError

_NOT_FOUND = frozenset({404, 410})
_INVALID = 422
_FULL = "This SHA and context has reached the maximum number of statuses"
"""GitHub's sentence among the `errors` of a 422, as its clients know it. There is no code for it
in the API's description."""


class GitHubRefusedError(OpamCiError):
    """GitHub refuses a request: a retry at once would get the same response, a later one may not.

    A commit or repository that does not exist, or not yet (404, 410, 422), an invalid value (422),
    a permission that the App or the token lacks at the moment (a 403 that is not a rate limit).

    Attributes:
        status: HTTP status.
        is_missing: Whether GitHub does not know, or does not show, what the request is about.
        is_full: Whether the commit has all statuses of this context that it may have.
    """

    def __init__(self, what: str, *, status: int, message: str, errors: str = "") -> None:
        super().__init__(f"GitHub refuses {what}: {status} {message}".rstrip())
        self.status = status
        self.is_missing = status in _NOT_FOUND
        self.is_full = status == _INVALID and _FULL in errors
