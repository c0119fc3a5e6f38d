"""Refusals of what people ask for: a page in a browser, a problem for a client of the API."""

from opam_ci.web.problems import ALL_PULL_REQUESTS, PageError, Way

_TITLES = {
    400: "This cannot be read",
    401: "Sign in first",
    403: "Not allowed",
    404: "There is no such thing",
    409: "Nothing was done",
    413: "Too large",
    415: "Another format is needed",
    422: "This cannot be read",
    429: "Too many requests",
}


class RefusedError(PageError):
    """The request gets this response, and nothing is done.

    Attributes:
        detail: What is wrong, then what to do.
        headers: Of the response.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        ways: tuple[Way, ...] = (ALL_PULL_REQUESTS,),
    ) -> None:
        super().__init__(status, _TITLES[status], f"{detail[:1].upper()}{detail[1:]}.", ways)
        self.detail = detail
        self.headers = headers or {}

    def __str__(self) -> str:
        return self.detail
