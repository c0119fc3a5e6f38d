"""The filter of jobs in a URL: `is:failed platform:debian* package:re kind:revdep cause:dns new:`.

Terms are separated by spaces. Values of a key are alternatives, whether separated by commas or
given by the key again; different keys narrow. A word without a key is part of the job's id.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args

from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, FailureReason, SkipReason
from opam_ci.core.jobs.summary import DECIDED, FIXED, UNDECIDED, Standing
from opam_ci.core.model import Frozen
from opam_ci.core.pages.model import ChangeClass
from opam_ci.core.printable import clip, flat

T = TypeVar("T")

LENGTH = 1000
"""Characters of a filter at most."""

TERMS = 30
"""Values in a filter at most, all keys together."""

_QUOTED = 60
"""Characters of an invalid value that an error quotes."""

_PATTERN = re.compile(r"[A-Za-z0-9._+~/*@-]{1,200}")
_WORKER = re.compile(r"[!#-+.-~-]{1,200}")
_KEY = re.compile(r"[a-z0-9_]{1,64}")
_WORD = re.compile(r"[!#-~]{1,200}")
_TERM = re.compile(r"\S+")

_GROUPS_OF_STANDINGS = {
    "undecided": tuple(each for each in Standing if each in UNDECIDED),
    "decided": tuple(each for each in Standing if each in DECIDED),
}

Why = Cause | FailureReason | SkipReason | Literal["fixed"]
"""Why a job is counted apart, see `JobCount.why`."""

_CAUSES: dict[str, Why] = {
    **{each.value: each for kind in (Cause, FailureReason, SkipReason) for each in kind},
    FIXED: FIXED,
}


class FilterError(UsageError):
    """A filter that does not parse.

    Attributes:
        position: Of the invalid term, in characters from 0.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (character {position + 1} of the filter)")
        self.position = position


class PageFilter(Frozen):
    """Which jobs of a head; an empty field matches all.

    Patterns match whole names, and have `*` for any characters. That of a package without a dot
    matches all its versions.

    Attributes:
        standings: `is:`; also `is:undecided` and `is:decided`.
        platforms: `platform:`, patterns.
        kinds: `kind:`.
        packages: `package:`, patterns of the package or the reverse dependency.
        revdeps: `revdep:`, patterns of the reverse dependency.
        causes: `cause:`, causes, reasons of failures and reasons of skips; `fixed` for jobs that
            passed, and fail without the change.
        workers: `worker:`, patterns.
        groups: `group:`, keys of groups of causes.
        cascades: `cascade:`, keys of groups whose cascade is listed.
        blames: `blame:`, patterns of the package that failed, where it is not the job's own.
        changes: `change:`, see `ChangeClass`; `new:` is `change:newly-failing`.
        incidents: `incident:`, numbers of incidents that hit the job.
        words: Words without a key: each is contained in the job's id, in any case.
    """

    standings: tuple[Standing, ...] = ()
    platforms: tuple[str, ...] = ()
    kinds: tuple[JobKind, ...] = ()
    packages: tuple[str, ...] = ()
    revdeps: tuple[str, ...] = ()
    causes: tuple[Why, ...] = ()
    workers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    cascades: tuple[str, ...] = ()
    blames: tuple[str, ...] = ()
    changes: tuple[ChangeClass, ...] = ()
    incidents: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The filter as text, which parses to the same."""
        terms = [
            f"{key}:{','.join(getattr(self, field))}"
            for key, (field, _) in _KEYS.items()
            if getattr(self, field)
        ]
        return " ".join((*terms, *self.words))


EVERY = PageFilter()
"""All jobs."""


def parse_filter(text: str) -> PageFilter:
    """Parses a filter.

    Raises:
        FilterError: It is too long, or has an unknown key or value; its text names what there is.
    """
    if len(text) > LENGTH:
        raise FilterError(f"the filter is longer than {LENGTH} characters: shorten it", LENGTH)
    found: dict[str, dict[Any, None]] = {}
    for term in _TERM.finditer(text):
        for field, value, position in _values(term[0], term.start()):
            found.setdefault(field, {}).update(dict.fromkeys(value))
            if sum(map(len, found.values())) > TERMS:
                raise FilterError(f"the filter has more than {TERMS} values: shorten it", position)
    return PageFilter.model_validate({field: tuple(values) for field, values in found.items()})


def _values(term: str, position: int) -> Iterator[tuple[str, tuple[Any, ...], int]]:
    """Yields field and meaning of each value of a term, with its position."""
    key, colon, rest = term.partition(":")
    if not colon:
        if _WORD.fullmatch(term) is None:
            raise FilterError(f"invalid word {clip(flat(term), _QUOTED)!r}", position)
        yield "words", (term,), position
        return
    if key == "new" and not rest:
        yield "changes", ("newly-failing",), position
        return
    if key not in _KEYS:
        known = ", ".join(f"{each}:" for each in (*_KEYS, "new"))
        raise FilterError(
            f"unknown key {clip(flat(key), _QUOTED)!r}: the keys are {known}", position
        )
    field, parse = _KEYS[key]
    position += len(key) + 1
    for value in rest.split(","):
        try:
            yield field, parse(value), position
        except ValueError as error:
            raise FilterError(
                f"invalid value {clip(flat(value), _QUOTED)!r} of {key}: {error}", position
            ) from None
        position += len(value) + 1


def _standing(value: str) -> tuple[Standing, ...]:
    if value in _GROUPS_OF_STANDINGS:
        return _GROUPS_OF_STANDINGS[value]
    return (_one_of({each.value: each for each in Standing}, value, *_GROUPS_OF_STANDINGS),)


def _kind(value: str) -> tuple[JobKind, ...]:
    return (_one_of({each.value: each for each in JobKind}, value),)


def _cause(value: str) -> tuple[Why, ...]:
    return (_one_of(_CAUSES, value),)


def _change(value: str) -> tuple[ChangeClass, ...]:
    return (_one_of({each: each for each in get_args(ChangeClass)}, value),)


def _one_of(known: dict[str, T], value: str, *others: str) -> T:
    if value not in known:
        raise ValueError(f"it is one of {', '.join((*known, *others))}")
    return known[value]


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], tuple[str, ...]]:
    def parse(value: str) -> tuple[str, ...]:
        if pattern.fullmatch(value) is None:
            raise ValueError(f"it is {what}")
        return (value,)

    return parse


_pattern = _matching(_PATTERN, "a name, in which * stands for any characters")
_group = _matching(_KEY, "the key of a group of causes, as a page links it")

_KEYS: dict[str, tuple[str, Callable[[str], tuple[Any, ...]]]] = {
    "is": ("standings", _standing),
    "platform": ("platforms", _pattern),
    "kind": ("kinds", _kind),
    "package": ("packages", _pattern),
    "revdep": ("revdeps", _pattern),
    "cause": ("causes", _cause),
    "worker": ("workers", _matching(_WORKER, "a name, in which * stands for any characters")),
    "group": ("groups", _group),
    "cascade": ("cascades", _group),
    "blame": ("blames", _pattern),
    "change": ("changes", _change),
    "incident": ("incidents", _matching(re.compile(r"[0-9]{1,9}"), "the number of an incident")),
}
"""The field of each key, and how its values are parsed; ValueError for an invalid one."""
