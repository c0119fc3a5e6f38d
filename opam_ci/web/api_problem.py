"""Refusals and faults as answers of the API: a status code, and a sentence that says what to do."""

import logging
from http import HTTPStatus

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.model import Frozen
from opam_ci.web.problems import PageError
from opam_ci.web.refusal import RefusedError

_LOG = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
"""Of RFC 9457."""

_RETRY_AFTER = 10
"""Seconds after which a request that met a fault may be repeated, if nobody knows better."""


class Problem(Frozen):
    """Why a request has no other answer (RFC 9457).

    Attributes:
        title: Name of the status code.
        status: HTTP status.
        detail: What is wrong, then what to do.
    """

    title: str
    status: int = Field(ge=400, le=599)
    detail: str


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]]:
    """Returns the problem that an error is for the client, and further headers.

    No text of an error that we did not raise ourselves is shown: it may cite anything.
    """
    match error:
        case RefusedError(status=status):
            return _problem(status, error.detail), error.headers
        case PageError(status=status):
            return _problem(status, error.advice), {}
        case UsageError():
            return _problem(400, str(error)), {}
        case HTTPException(status_code=status):
            return _problem(status, _HTTP_DETAILS.get(status, error.detail)), dict(
                error.headers or {}
            )
        case InfrastructureError(retry_after=wait):
            _LOG.warning("a request failed: %s", error)
            seconds = _RETRY_AFTER if wait is None else int(wait.total_seconds()) + 1
            detail = f"unavailable at the moment ({error.cause}): repeat the request in {seconds} s"
            return _problem(503, detail), {"retry-after": str(seconds)}
    _LOG.error("a bug of ours", exc_info=error)
    return _problem(500, "internal error, a bug of ours: the operators' log has more"), {}


def problem_response(error: Exception) -> JSONResponse:
    """Returns the answer to a client of the API."""
    problem, headers = problem_of(error)
    return JSONResponse(
        problem.model_dump(),
        status_code=problem.status,
        headers={**headers, "cache-control": "no-store", "x-content-type-options": "nosniff"},
        media_type=MEDIA_TYPE,
    )


_HTTP_DETAILS = {
    404: "no such resource: /api/v1/openapi.json lists them",
    405: "no such method for this resource: /api/v1/openapi.json lists them",
}


def _problem(status: int, detail: str) -> Problem:
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
