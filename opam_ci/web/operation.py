"""Operations of the JSON API: parsed requests, checked answers, and a description of both."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from opam_ci.core.model import Frozen
from opam_ci.core.packed import UNPACKED
from opam_ci.core.text.status import problems
from opam_ci.web.api_problem import problem_response
from opam_ci.web.refusal import RefusedError

M = TypeVar("M", bound=Frozen)

PREFIX = "/api/v1"

BODY_LIMIT = 1 << 20
"""Bytes of a request's body: a selector with some thousand ids of jobs."""

_BAD_REQUEST, _NOT_FOUND = 400, 404


@dataclass(frozen=True)
class Call:
    """A request that is parsed.

    Attributes:
        request: As it came.
        path: Parameters of its path.
        query: Its query, by the operation's model.
    """

    request: Request
    path: Any = None
    query: Any = None


Handle = Callable[[Call], Awaitable[BaseModel | Response]]


@dataclass(frozen=True)
class Operation:
    """An operation of the API.

    Attributes:
        method: GET or POST.
        path: Below `PREFIX`, with `{names}` of parameters.
        summary: What it does, in a line.
        handle: Does it.
        answer: Model of its answer; None where `media_type` says what it is.
        path_model: Model of the parameters of the path.
        query_model: Model of the query; None for none.
        body_model: Model of the body, which `handle` reads once it knows the sender; None for none.
        problems: What answers of other status codes mean, besides those that all can have.
        more: Further successful answers: what they mean, by status code.
        media_type: Of the answer.
    """

    method: str
    path: str
    summary: str
    handle: Handle
    answer: type[BaseModel] | None = None
    path_model: type[Frozen] | None = None
    query_model: type[Frozen] | None = None
    body_model: type[Frozen] | None = None
    problems: Mapping[int, str] = field(default_factory=dict)
    more: Mapping[int, str] = field(default_factory=dict)
    media_type: str = "application/json"

    def route(self) -> Route:
        """Returns the route that answers it, below `PREFIX`."""
        return Route(self.path, self._answer, methods=[self.method], name=self.summary)

    async def _answer(self, request: Request) -> Response:
        try:
            found = await self.handle(await self._call(request))
        except Exception as error:  # noqa: BLE001 - each becomes a documented answer
            return problem_response(error)
        if isinstance(found, Response):
            return found
        return answer(found)

    async def _call(self, request: Request) -> Call:
        """Parses a request.

        Raises:
            RefusedError: It is not one of this operation.
        """
        path = None
        if self.path_model is not None:
            path = parsed_path(self.path_model, request.path_params)
        query = _parsed(self.query_model, _query(request, self.query_model), _BAD_REQUEST)
        return Call(request, path, query)


def answer(model: BaseModel, *, status: int = 200) -> Response:
    """Returns a value as the answer."""
    return Response(
        model.model_dump_json(context=UNPACKED),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store", "x-content-type-options": "nosniff"},
    )


def _query(request: Request, model: type[Frozen] | None) -> dict[str, Any]:
    """Returns the parameters of a query; a repeated one is a list where the model has one.

    Raises:
        RefusedError: A parameter that has one value is repeated.
    """
    fields = model.model_fields if model is not None else {}
    found: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if name in fields and isinstance(fields[name].default, tuple):
            found[name] = values
        elif len(values) > 1:
            raise RefusedError(
                _BAD_REQUEST, f"the parameter {name[:100]!r} is given {len(values)} times"
            )
        else:
            found[name] = values[0]
    return found


def _parsed(model: type[Frozen] | None, values: dict[str, Any], status: int) -> Any:
    if model is None:
        if values:
            raise RefusedError(status, "this resource has no parameters")
        return None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RefusedError(status, problems(error)) from error


def parsed_path(model: type[M], parameters: Mapping[str, Any]) -> M:
    """Parses the parameters of a path.

    Raises:
        RefusedError: There can be no such thing.
    """
    found: M = _parsed(model, dict(parameters), _NOT_FOUND)
    return found


async def read_body(request: Request, model: type[Frozen]) -> Any:
    """Reads the JSON of a request whose sender is known.

    Raises:
        RefusedError: It is too large, not JSON, or not what the model has.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, "send JSON, with the content type application/json")
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > BODY_LIMIT:
                raise RefusedError(413, "the body is larger than 1 MiB")
    except ClientDisconnect as error:
        raise RefusedError(400, "the body broke off") from error
    try:
        return model.model_validate_json(bytes(data))
    except ValidationError as error:
        raise RefusedError(422, problems(error)) from error
