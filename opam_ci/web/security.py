"""Headers by which browsers keep hostile text of a page from doing anything."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'"
)
"""Nothing but files of this server, and no text that becomes markup or code in a browser."""

_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    # Not `no-referrer`: forms would be sent with the origin `null`.
    "referrer-policy": "same-origin",
}

_NOT_MODIFIED = 304


class SecurityHeaders:
    """Adds the headers to each response, errors included.

    Not to a 304, which has none of its own by the rules of caches: the browser keeps those of the
    response that it has, and a poll costs less than 300 bytes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the server."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != _NOT_MODIFIED:
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
