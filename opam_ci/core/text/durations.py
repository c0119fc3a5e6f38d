"""Durations in words."""

_MINUTE = 60
_HOUR = 3600


def seconds(number: float) -> str:
    """Returns a duration in the two largest units that it has, such as `3 min 20 s`."""
    if number < _MINUTE:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
