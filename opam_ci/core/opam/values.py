"""Readers of single values: strings, lists, options, names, URLs, commands.

Of a pair opam reads the right part first, and so do these: if both are wrong, the right one is
reported.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from opam_ci.core.opam.nodes import (
    Bool,
    EnvBinding,
    Ident,
    List,
    Option,
    Relop,
    String,
    Value,
)
from opam_ci.core.opam.package import Package, check_name, check_version
from opam_ci.core.opam.readers import (
    NOWHERE,
    ONLY,
    BadFormat,
    Reader,
    Span,
    Unexpected,
    invalid_argument,
    of_text,
)
from opam_ci.core.opam.url import Url

_HEX: Final = frozenset("0123456789abcdefABCDEF")
_HASH_LENGTHS: Final = {"md5": 32, "sha256": 64, "sha512": 128}
#: The characters that opam strips from texts.
_BLANKS: Final = " \t\r\n"


def span_of(value: Value) -> Span:
    """The position of a value."""
    return Span(value.start, value.end)


# Leaves


def _of_kind(
    name: str, kind: type[Value] | tuple[type[Value], ...], get: Callable[[Any], Any]
) -> Reader:
    def run(value: Value, _span: Span) -> Any:
        if isinstance(value, kind):
            return get(value)
        raise Unexpected

    return Reader(run, name)


BOOL: Final = _of_kind("bool", Bool, attrgetter("value"))
IDENT: Final = _of_kind("ident", Ident, attrgetter("name"))
STRING: Final = _of_kind("string", String, attrgetter("value"))
SIMPLE_ARG: Final = _of_kind("ident-or-string", (String, Ident), lambda value: value)
STRIPPED: Final = STRING.then(Reader(lambda text, _span: text.strip(_BLANKS)))


# Structure


def _list(value: Value, _span: Span) -> tuple[Value, ...]:
    return value.items if isinstance(value, List) else (value,)


def _option(value: Value, _span: Span) -> tuple[Value, tuple[Value, ...]]:
    return (value.value, value.options) if isinstance(value, Option) else (value, ())


def _strict_option(value: Value, span: Span) -> tuple[Value, tuple[Value, ...]]:
    if isinstance(value, Option):
        return value.value, value.options
    raise BadFormat(span, "Expected an option")


LIST: Final = Reader(_list, "list", "[{}]".format)
OPTION: Final = Reader(_option, "option")
STRICT_OPTION: Final = Reader(_strict_option, "option")


def list_depth(expected: int) -> Reader:
    """Put lists around a value until its first elements nest as deep as expected."""
    return Reader(lambda value, _span: nested(value, expected))


def nested(value: Value, depth: int) -> Value:
    """The value in as many lists as needed for its first elements to nest `depth` deep."""
    for _ in range(depth - _depth(value)):
        value = List((value,))
    return value


def _depth(value: Value) -> int:
    depth = 0
    while True:
        match value:
            case List(items=(first, *_)):
                depth += 1
                value = first
            case List():
                return depth + 1
            case Option(value=inner):
                value = inner
            case _:
                return depth


def option_depth(expected: int) -> Reader:
    """Put empty options around a value until they nest as deep as expected."""

    def run(value: Value, _span: Span) -> Value:
        depth, inner = 0, value
        while isinstance(inner, Option):
            depth, inner = depth + 1, inner.value
        for _ in range(expected - depth):
            value = Option(value, ())
        return value

    return Reader(run)


def list_of(element: Reader, *, depth: int = 0) -> Reader:
    """A list of values; `depth` allows to leave out brackets."""

    def run(value: Value, _span: Span) -> tuple[Any, ...]:
        if not isinstance(value, List):
            raise Unexpected
        return tuple([element.read(item, Span(item.start, item.end)) for item in value.items])

    return list_depth(depth).then(Reader(run, f"[{element.name}]"))


def _option_contents(value: Reader, options: Reader) -> Reader:
    def run(pair: tuple[Value, tuple[Value, ...]], _span: Span) -> tuple[Any, Any]:
        inner, braces = pair
        where = Span(braces[0].start, braces[0].end) if braces else NOWHERE
        condition = options.read(braces, where)
        return value.read(inner, Span(inner.start, inner.end)), condition

    return Reader(run, f"{value.name} ?{{{options.name}}}")


def option_of(value: Reader, options: Reader) -> Reader:
    """`value {options}`, where the options may be missing."""
    return OPTION.then(_option_contents(value, options))


def options_of(value: Reader, first: Reader, second: Reader) -> Reader:
    """`value {first} {second}`."""
    inner = STRICT_OPTION.then(_option_contents(value, first))
    return (
        option_depth(2)
        .then(STRICT_OPTION)
        .then(_option_contents(inner, second))
        .then(Reader(lambda read, _span: (*read[0], read[1])))
    )


def tuple_of(*parts: Reader) -> Reader:
    """A list of exactly these values."""

    def run(value: Value, _span: Span) -> tuple[Any, ...]:
        if not isinstance(value, List) or len(value.items) != len(parts):
            raise Unexpected
        pairs = list(zip(parts, value.items, strict=True))
        read = [part.read(item, span_of(item)) for part, item in reversed(pairs)]
        return tuple(reversed(read))

    return Reader(run, f"[{' '.join(part.name for part in parts)}]")


# Texts of a kind


def checksum(text: str) -> tuple[str, str]:
    """Kind and digits of a checksum, in lower case; an MD5 may lack its kind.

    Raises:
        OcamlException: It is invalid; the message is opam's.
    """
    kind, separator, digits = text.partition("=")
    if not separator:
        kind, digits = "md5", text
    kind = kind.lower()
    if len(digits) != _HASH_LENGTHS.get(kind, -1) or not _HEX.issuperset(digits):
        raise invalid_argument("OpamHash.of_string")
    return kind, digits.lower()


def url_by(backend: str | None) -> Callable[[str], Url]:
    """A parser of URLs of a backend, or of the one that the URL itself names."""
    return lambda text: Url.parse(text, backend=backend)


CHECKSUM: Final = STRING.then(of_text("checksum", checksum))
URL: Final = STRING.then(of_text("url", Url.parse))
PACKAGE_NAME: Final = STRING.then(of_text("pkg-name", check_name))
FILE_NAME: Final = STRING.then(of_text("file", str))
PIN: Final = tuple_of(
    STRING.then(of_text("versioned package", Package.parse)),
    STRING.then(of_text("URL", Url.parse)),
)
VERSION: Final = STRIPPED.then(of_text("version", check_version))


# Environment updates


def _env_binding(value: Value, _span: Span) -> tuple[str, str, str]:
    match value:
        case Relop(op="=", left=Ident(name=name), right=String(value=text)):
            return name, "=", text
        case EnvBinding(left=Ident(name=name), op=op, right=String(value=text)):
            return name, op, text
    raise Unexpected


ENV_BINDING: Final = LIST.then(ONLY).then(Reader(_env_binding, "env-binding"))
