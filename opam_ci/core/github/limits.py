"""GitHub's rate limits: which responses are rate limited, and how long to wait."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_FORBIDDEN = 403
_TOO_MANY = 429
_SERVER_ERROR = 500

_UNKNOWN_WAIT = timedelta(seconds=60)
"""GitHub's documentation: without a header, wait at least a minute."""

_LONGEST_WAIT = timedelta(hours=2)
"""Primary limits reset within an hour; a longer wait is a broken clock or header."""

_LIMIT_MESSAGE = re.compile(r"rate limit|abuse detection|too quickly", re.IGNORECASE)


def is_limited(status: int, headers: Mapping[str, str], message: str) -> bool:
    """Whether a response means that a rate limit was exceeded.

    Both the primary and the secondary limit respond 403 or 429; a missing permission is a 403 as
    well.

    Args:
        status: HTTP status.
        headers: Of the response, names in lower case.
        message: `message` of its body.
    """
    if status == _TOO_MANY:
        return True
    return status == _FORBIDDEN and (
        "retry-after" in headers
        or headers.get("x-ratelimit-remaining", "").strip() == "0"
        or _LIMIT_MESSAGE.search(message) is not None
    )


def retry_after(status: int, headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Returns how long to wait, None for a server error without a header.

    `retry-after`, else `x-ratelimit-reset` when nothing remains, else a minute for a
    limit. GitHub's clock is taken from its `date` header if there is one, so that a
    worker whose clock is wrong does not wait for an hour or not at all.

    Args:
        status: HTTP status.
        headers: Of the response, names in lower case.
        now: Local time, for responses without a date.
    """
    github_now = _date(headers.get("date")) or now
    wait = _pause(headers.get("retry-after"), github_now)
    if wait is None and headers.get("x-ratelimit-remaining", "").strip() == "0":
        wait = _until(headers.get("x-ratelimit-reset"), github_now)
    if wait is None:
        return _UNKNOWN_WAIT if status < _SERVER_ERROR else None
    return min(max(wait, timedelta(seconds=1)), _LONGEST_WAIT)


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    # Ten digits hold every second until the year 2286.
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else None


def _pause(text: str | None, now: datetime) -> timedelta | None:
    if (seconds := _number(text)) is not None:
        return timedelta(seconds=seconds)
    at = _date(text)
    return at - now if at is not None else None


def _until(text: str | None, now: datetime) -> timedelta | None:
    if (second := _number(text)) is None:
        return None
    return datetime.fromtimestamp(second, UTC) - now
