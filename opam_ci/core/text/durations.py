"""Durations in words."""

from datetime import UTC, datetime, timedelta

_MINUTE = 60
_HOUR = 3600
_DAY = 24 * _HOUR


def seconds(number: float) -> str:
    """Returns a duration in the two largest units that it has, such as `3 min 20 s`."""
    if number < _MINUTE:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def range_text(soonest: timedelta, latest: timedelta) -> str:
    """Returns when something will be done, such as `in 20 to 30 minutes`.

    Args:
        soonest: From now on, in whole minutes.
        latest: From now on, in whole minutes, at least one.
    """
    low, unit = _whole(soonest)
    high, last_unit = _whole(latest)
    end = f"{high} {last_unit}" if high == 1 else f"{high} {last_unit}s"
    if not low:
        return f"within {end}"
    if soonest == latest:
        return f"in about {end}"
    if unit == last_unit:
        return f"in {low} to {end}"
    return f"in {low} {unit}{'' if low == 1 else 's'} to {end}"


def until_text(until: datetime, now: datetime) -> str:
    """Returns by when something will be done, such as `by 14:30 UTC`; with its day if that is far.

    Args:
        until: By when.
        now: The time.
    """
    at = until.astimezone(UTC)
    day = "" if until - now < timedelta(seconds=_DAY) else f"{at:%d %B} "
    return f"by {day}{at:%H:%M} UTC"


def _whole(span: timedelta) -> tuple[int, str]:
    """Returns a time in the largest unit in which it is whole."""
    minutes = round(span.total_seconds() / _MINUTE)
    for size, unit in ((_DAY // _MINUTE, "day"), (_HOUR // _MINUTE, "hour")):
        if minutes and minutes % size == 0:
            return minutes // size, unit
    return minutes, "minute"
