"""The REST API of the fake GitHub: authentication, limits, ETags, pages, and its rules."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import jwt
from jwt.types import Options
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.fakes.github import (
    CREATIONS_A_MINUTE,
    EVENTS,
    PERMISSIONS,
    POINTS_A_MINUTE,
    STATUSES_LIMIT,
    TOKEN_LIFE,
    FakeGitHub,
    private_key,
)
from tests.support.fakes.github_bodies import (
    Run,
    check_run,
    comment,
    installation,
    permission,
    pull_request,
    pull_request_whole,
    stamp,
    status,
)

DOCS = "https://docs.github.com/rest"
TOO_MANY_STATUSES = (
    "Validation failed: This SHA and context has reached the maximum number of statuses."
)

_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class RefusedError(Exception):
    def __init__(self, code: int, message: str, errors: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.errors = errors
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


Handler = Callable[[FakeGitHub, Request], Awaitable[tuple[int, Any]]]


def api(fake: FakeGitHub) -> Starlette:
    """Returns the fake's REST API as an application."""
    repo = "/repos/{owner}/{repo}"
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/app", _app),
        ("GET", "/app/hook/deliveries", _deliveries),
        ("POST", "/app/hook/deliveries/{id:int}/attempts", _redeliver),
        ("GET", repo + "/installation", _installation),
        ("POST", "/app/installations/{id:int}/access_tokens", _token),
        ("GET", repo + "/pulls", _pulls),
        ("GET", repo + "/pulls/{number:int}", _pull),
        ("POST", repo + "/statuses/{sha}", _status),
        ("POST", repo + "/check-runs", _new_run),
        ("PATCH", repo + "/check-runs/{id:int}", _change_run),
        ("GET", repo + "/commits/{sha}/check-runs", _runs),
        ("GET", repo + "/collaborators/{login}/permission", _permission),
        ("POST", repo + "/issues/{number:int}/comments", _comment),
    ]
    return Starlette(
        routes=[
            Route(path, _endpoint(fake, handler), methods=[method])
            for method, path, handler in table
        ]
    )


def _endpoint(fake: FakeGitHub, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            _authenticate(fake, request)
            _limit(fake, request)
            code, body = await handler(fake, request)
        except RefusedError as error:
            body = {"message": error.message, "documentation_url": DOCS, "status": str(error.code)}
            if error.errors is not None:
                body["errors"] = error.errors
            return _response(fake, error.code, body, error.headers)
        if request.method != "GET":
            return _response(fake, code, body, {})
        page, links = _page(fake, request, body)
        etag = f'W/"{hashlib.sha256(json.dumps(page).encode()).hexdigest()}"'
        # The description has no 304 for requests as the App.
        is_cached = not request.url.path.startswith("/app")
        if is_cached and request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag, **links})
        fake.remaining -= 1
        return _response(fake, code, page, {"etag": etag, **links})

    return respond


def _response(fake: FakeGitHub, code: int, body: Any, headers: dict[str, str]) -> Response:
    return Response(
        json.dumps(body),
        status_code=code,
        media_type="application/json",
        headers={
            "date": format_datetime(fake.now.astimezone(UTC), usegmt=True),
            "x-ratelimit-remaining": str(max(fake.remaining, 0)),
            "x-ratelimit-reset": str(int(fake.reset_at.timestamp())),
            **headers,
        },
    )


def _page(fake: FakeGitHub, request: Request, body: Any) -> tuple[Any, dict[str, str]]:
    if not isinstance(body, list):
        return body, {}
    per_page = int(request.query_params.get("per_page", "30"))
    if not 1 <= per_page <= 100:
        raise AssertionError("GitHub's pages have 1 to 100 items")
    size = min(per_page, fake.page_size or 100)
    # Deliveries are paged by cursor, all others by number.
    parameter = "cursor" if request.url.path.endswith("/deliveries") else "page"
    at = int(request.query_params.get(parameter, "1"))
    links = {}
    if len(body) > at * size:
        query = {**request.query_params, parameter: str(at + 1)}
        joined = "&".join(f"{name}={value}" for name, value in query.items())
        here = str(request.base_url).rstrip("/")
        links["link"] = f'<{here}{request.url.path}?{joined}>; rel="next", <{here}/x>; rel="last"'
    return body[(at - 1) * size : at * size], links


def _authenticate(fake: FakeGitHub, request: Request) -> None:
    if request.headers.get("x-github-api-version") != "2022-11-28":
        raise RefusedError(400, "the API version is not pinned")
    if not request.headers.get("user-agent"):
        raise RefusedError(403, "Request forbidden by administrative rules")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    path = request.url.path
    if scheme != "Bearer":
        raise RefusedError(401, "Requires authentication")
    if path.startswith("/app") or path.endswith("/installation"):
        _check_jwt(fake, given)
    elif given != fake.plain_token and fake.tokens.get(given, fake.now) <= fake.now:
        raise RefusedError(401, "Bad credentials")


def _check_jwt(fake: FakeGitHub, token: str) -> None:
    # The fake has its own clock, so the times are compared here.
    times: Options = {"verify_exp": False, "verify_iat": False}
    try:
        claims = jwt.decode(token, private_key().public_key(), algorithms=["RS256"], options=times)
    except jwt.InvalidTokenError as error:
        raise RefusedError(401, "A JSON web token could not be decoded") from error
    issued, expires = (datetime.fromtimestamp(claims[name], UTC) for name in ("iat", "exp"))
    if issued > fake.now:
        raise RefusedError(401, "'Issued at' claim ('iat') must be in the past")
    if expires <= fake.now or expires > fake.now + timedelta(minutes=10):
        raise RefusedError(401, "'Expiration time' claim ('exp') is too far in the future or past")
    if claims["iss"] != str(fake.app_id):
        raise RefusedError(404, "Integration not found")


def _limit(fake: FakeGitHub, request: Request) -> None:
    if fake.now >= fake.reset_at:
        fake.remaining, fake.reset_at = 5000, fake.now + timedelta(hours=1)
    if fake.remaining <= 0:
        raise RefusedError(403, "API rate limit exceeded for installation")
    minute = fake.now - timedelta(minutes=1)
    while fake.points and fake.points[0][0] <= minute:
        fake.points.popleft()
    while fake.creations and fake.creations[0] <= minute:
        fake.creations.popleft()
    fake.points.append((fake.now, 1 if request.method == "GET" else 5))
    if request.method == "POST" and "/repos/" in request.url.path:
        fake.creations.append(fake.now)
    if sum(points for _, points in fake.points) > POINTS_A_MINUTE:
        raise RefusedError(429, "You have exceeded a secondary rate limit", retry_after="60")
    if len(fake.creations) > CREATIONS_A_MINUTE:
        raise RefusedError(403, "You have exceeded a secondary rate limit", retry_after="60")


async def _app(fake: FakeGitHub, _request: Request) -> tuple[int, Any]:
    return 200, fake.app()


async def _deliveries(fake: FakeGitHub, _request: Request) -> tuple[int, Any]:
    return 200, fake.deliveries[::-1]


async def _redeliver(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    if not await fake.redeliver(request.path_params["id"]):
        raise RefusedError(404, "Not Found")
    return 202, {}


async def _installation(fake: FakeGitHub, _request: Request) -> tuple[int, Any]:
    if not fake.installed:
        raise RefusedError(404, "Not Found")
    number = fake.installation_id
    return 200, installation(number, fake.full_name, fake.app_id, PERMISSIONS, EVENTS)


async def _token(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    if not fake.installed or request.path_params["id"] != fake.installation_id:
        raise RefusedError(404, "Not Found")
    token = f"ghs_{fake.next_id()}"
    fake.tokens[token] = fake.now + TOKEN_LIFE
    return 201, {
        "token": token,
        "expires_at": stamp(fake.tokens[token]),
        "permissions": PERMISSIONS,
        "repository_selection": "selected",
    }


async def _pulls(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    query = request.query_params
    found = [
        pull
        for _, pull in sorted(fake.pulls.items())
        if pull.state == query.get("state", "open")
        and pull.base_ref == query.get("base", pull.base_ref)
    ]
    return 200, [pull_request(fake.full_name, pull, pull.updated_at or _LONG_AGO) for pull in found]


async def _pull(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    pull = fake.pulls.get(request.path_params["number"])
    if pull is None:
        raise RefusedError(404, "Not Found")
    return 200, pull_request_whole(fake.full_name, pull, pull.updated_at or _LONG_AGO)


async def _status(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    wanted = {**await request.json(), "sha": request.path_params["sha"]}
    if wanted["sha"] not in fake.commits:
        raise RefusedError(422, f"No commit found for SHA: {wanted['sha']}")
    if len(wanted.get("description") or "") > 140:
        raise RefusedError(422, "Validation Failed: description is too long (maximum is 140)")
    history = fake.statuses[wanted["sha"], wanted["context"]]
    if len(history) >= STATUSES_LIMIT:
        raise RefusedError(422, "Validation Failed", errors=TOO_MANY_STATUSES)
    history.append(status(fake.full_name, fake.next_id(), wanted, fake.now, "opam-ci[bot]"))
    return 201, history[-1]


async def _new_run(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    wanted = await request.json()
    if wanted["head_sha"] not in fake.commits:
        raise RefusedError(422, "No commit found for SHA")
    run = Run(id=fake.next_id(), wanted={})
    fake.runs[run.id] = run
    return 201, _merge_run(fake, run, wanted)


async def _change_run(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    run = fake.runs.get(request.path_params["id"])
    if run is None:
        raise RefusedError(404, "Not Found")
    return 200, _merge_run(fake, run, await request.json())


def _merge_run(fake: FakeGitHub, run: Run, wanted: dict[str, Any]) -> Any:
    annotations = wanted.get("output", {}).get("annotations", [])
    if len(annotations) > 50:
        raise RefusedError(422, "Invalid request: no more than 50 annotations")
    if len(wanted.get("actions", [])) > 3:
        raise RefusedError(422, "Invalid request: no more than 3 actions")
    if wanted.get("status") == "completed" and not wanted.get("conclusion"):
        raise RefusedError(422, "Invalid request: a completed check run has a conclusion")
    run.wanted |= wanted
    run.annotations += annotations
    return check_run(fake.full_name, run, fake.app())


async def _runs(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    found = [
        check_run(fake.full_name, run, fake.app())
        for run in fake.runs.values()
        if run.wanted["head_sha"] == request.path_params["sha"]
        and run.wanted["name"] == request.query_params.get("check_name", run.wanted["name"])
    ]
    return 200, {"total_count": len(found), "check_runs": found}


async def _permission(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    login = request.path_params["login"]
    return 200, permission(login, fake.roles.get(login, "read"))


async def _comment(fake: FakeGitHub, request: Request) -> tuple[int, Any]:
    number = request.path_params["number"]
    if number not in fake.pulls:
        raise RefusedError(404, "Not Found")
    text = (await request.json())["body"]
    made = comment(fake.full_name, fake.next_id(), number, text, by="opam-ci[bot]", at=fake.now)
    fake.comments.append(made)
    return 201, made
