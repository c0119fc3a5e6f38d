"""Templates of pages, and answers by state: a client that has the newest page gets 304."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from opam_ci.core.printable import readable

HTML: Final = "text/html; charset=utf-8"

_OK: Final = 200
_KEPT = "public, no-cache"
"""Pages are public, and asked for again each time: the answer to that is short."""


class Templates:
    """The templates, all of which escape what they show.

    Args:
        names: What templates may use besides what a page gives them.
        filters: Their filters.

    Attributes:
        version: Changes with the text of any template.
    """

    def __init__(self, names: Mapping[str, Any], filters: Mapping[str, Any]) -> None:
        self._environment = Environment(
            loader=PackageLoader("opam_ci.web", "templates"),
            autoescape=True,
            finalize=_visible,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(names)
        self._environment.filters.update(filters)
        folder = resources.files("opam_ci.web").joinpath("templates")
        texts = sorted(each.read_bytes() for each in folder.iterdir() if each.is_file())
        self.version = tag_of(*texts)

    def render(self, template: str, **values: object) -> str:
        """Renders a template."""
        return self._environment.get_template(template).render(**values)


def _visible(value: object) -> object:
    """Returns what a template shows, without characters that hide or turn around what follows."""
    # Markup is what a macro has made, of texts that have been here.
    return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def tag_of(*parts: str | bytes) -> str:
    """Returns the ETag of a state that is described by some texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode("utf-8", "replace"))
        digest.update(b"\0")
    return f'"{digest.hexdigest()[:20]}"'


def has(request: Request, tag: str) -> bool:
    """Whether a client has the state with this ETag."""
    known = request.headers.get("if-none-match", "")
    # A proxy that compresses makes it a weak one.
    return tag in {each.strip().removeprefix("W/") for each in known.split(",")}


def not_modified(tag: str) -> Response:
    """Answers that a client has the newest state."""
    return Response(status_code=304, headers={"etag": tag})


def answer(
    request: Request,
    content: str | bytes,
    *,
    status: int = _OK,
    media_type: str = HTML,
    tag: str | None = None,
) -> Response:
    """Answers with a page, or with 304 if the client has it as it is.

    Args:
        request: Of the client.
        content: The page.
        status: Of the response.
        media_type: Of the page.
        tag: ETag of its state; by default made from the page.
    """
    body = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    if status != _OK:
        headers = {"cache-control": "no-store"}
    else:
        tag = tag or tag_of(body)
        if has(request, tag):
            return not_modified(tag)
        headers = {"cache-control": _KEPT, "etag": tag}
    return Response(body, status_code=status, media_type=media_type, headers=headers)
