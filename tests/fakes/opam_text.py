"""Prints fields and sections of an opam file, one a line."""

from collections.abc import Iterable

from opam_ci.core.opam.nodes import Field, Item, List, Option, Section, String
from opam_ci.core.opam.printer import print_value


def print_file(items: Iterable[Item]) -> str:
    """The text of an opam file with these fields and sections."""
    return "".join(f"{line}\n" for item in items for line in _item(item))


def _item(item: Item) -> list[str]:
    if isinstance(item, Section):
        name = "" if item.name is None else f"{print_value(String(item.name))} "
        inner = [f"  {line}" for field in item.items for line in _item(field)]
        return [f"{item.kind} {name}{{", *inner, "}"]
    return _field(item)


def _field(field: Field) -> list[str]:
    value = field.value
    if isinstance(value, List) and any(isinstance(one, List | Option) for one in value.items):
        return [f"{field.name}: [", *(f"  {print_value(one)}" for one in value.items), "]"]
    return [f"{field.name}: {print_value(value)}"]
