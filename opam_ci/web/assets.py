"""Style and scripts of pages: files with a hash of their content in the name, cached for good."""

import hashlib
from importlib import resources
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

_FOR_GOOD = "public, max-age=31536000, immutable"


class Assets:
    """The files of `static/`, in memory."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}
        self._contents: dict[str, tuple[bytes, str]] = {}
        for file in resources.files("opam_ci.web").joinpath("static").iterdir():
            stem, _, extension = file.name.rpartition(".")
            if extension in _TYPES:
                content = file.read_bytes()
                name = f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.{extension}"
                self._paths[file.name] = f"/static/{name}"
                self._contents[name] = (content, _TYPES[extension])

    @property
    def version(self) -> str:
        """Changes with the content of any file."""
        return " ".join(sorted(self._contents))

    def path(self, name: str) -> str:
        """Returns the path of a file; KeyError if there is none of this name."""
        return self._paths[name]

    async def serve(self, request: Request) -> Response:
        """Answers `GET /static/{name}`."""
        found = self._contents.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        content, media_type = found
        return Response(content, media_type=media_type, headers={"cache-control": _FOR_GOOD})
