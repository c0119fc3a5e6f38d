"""The grammar of the opam format, on lark's LALR parser.

The language is that of opam-file-format 2.2 (`opamBaseParser.mly`). Two shift-reduce
conflicts are intended; lark resolves them by a shift, as opam's precedence declarations
require: `a = b` in a list is one comparison and not `a` and a prefix `= b`, and `!a {b}` is
`!(a {b})`. Chains of `&` and `|` are parsed flat and get their precedence in
`Builder.chain`, which saves four reductions a value.
"""

from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from lark import Lark, Transformer

from opam_ci.core.opam.driver import TableDriver
from opam_ci.core.opam.lexer import Mark, OpamLexer
from opam_ci.core.opam.nodes import (
    EnvBinding,
    Field,
    Group,
    Item,
    List,
    Logop,
    Option,
    Pfxop,
    PrefixRelop,
    Relop,
    Section,
    Value,
)

_GRAMMAR: Final = """
start: items EOF                            -> first
items:                                      -> none
     | items item                           -> more
item: IDENT COLON value                     -> field
    | IDENT LBRACE items RBRACE             -> section
    | IDENT STRING LBRACE items RBRACE      -> named_section
value: unit                                 -> first
     | chain                                -> chain
chain: unit LOGOP unit                      -> link
     | chain LOGOP unit                     -> longer_link
unit: atom                                  -> first
    | LPAR values RPAR                      -> group
    | LBRACKET values RBRACKET              -> list
    | unit LBRACE values RBRACE             -> option
    | atom RELOP atom                       -> relop
    | atom ENVOP atom                       -> env_binding
    | PFXOP unit                            -> pfxop
    | RELOP atom                            -> prefix_relop
values:                                     -> none
      | values value                        -> more
atom: IDENT                                 -> first
    | STRING                                -> first
    | LITERAL                               -> first
%declare IDENT STRING LITERAL EOF COLON LBRACE RBRACE LPAR RPAR LBRACKET RBRACKET
%declare LOGOP RELOP PFXOP ENVOP
"""

Children = list[Any]


class Builder(Transformer[Any, Any]):
    """Makes nodes while lark parses; each method gets the children of one alternative."""

    first = staticmethod(itemgetter(0))

    def none(self, _children: Children) -> list[Any]:
        """An empty list."""
        return []

    def more(self, children: Children) -> list[Any]:
        """Grow the list in place: left recursion stays linear."""
        collected: list[Any] = children[0]
        collected.append(children[1])
        return collected

    def field(self, children: Children) -> Field:
        """`name: value`."""
        name, _, value = children
        return Field(name.name, value, start=name.start, end=value.end)

    def section(self, children: Children) -> Section:
        """`kind { items }`."""
        kind, _, items, close = children
        return _section(kind.name, None, items, kind.start, close.end)

    def named_section(self, children: Children) -> Section:
        """`kind "name" { items }`."""
        kind, name, _, items, close = children
        return _section(kind.name, name.value, items, kind.start, close.end)

    def link(self, children: Children) -> Children:
        """The first two units of a chain and the operator between them."""
        return children

    def longer_link(self, children: Children) -> Children:
        """A chain and one more unit."""
        chain: Children = children[0]
        chain += children[1:]
        return chain

    def chain(self, children: Children) -> Logop:
        """Units and operators by turns, as a tree: `&` binds tighter than `|`."""
        units: Children = children[0]
        alternatives: list[Value] = []
        for is_or, group in groupby(
            units, key=lambda unit: isinstance(unit, Mark) and unit.text == "|"
        ):
            if not is_or:
                operands = tuple(unit for unit in group if not isinstance(unit, Mark))
                alternatives.append(_logop("&", operands))
        return _logop("|", tuple(alternatives))  # type: ignore[return-value]  # a chain has two units at least

    def group(self, children: Children) -> Group:
        """`(values)`."""
        return Group(tuple(children[1]), start=children[0].start, end=children[2].end)

    def list(self, children: Children) -> List:
        """`[values]`."""
        return List(tuple(children[1]), start=children[0].start, end=children[2].end)

    def option(self, children: Children) -> Option:
        """`value {options}`."""
        value, _, options, close = children
        return Option(value, tuple(options), start=value.start, end=close.end)

    def relop(self, children: Children) -> Relop:
        """`a >= b`."""
        left, mark, right = children
        return Relop(mark.text, left, right, start=left.start, end=right.end)

    def prefix_relop(self, children: Children) -> PrefixRelop:
        """`>= b`."""
        mark, value = children
        return PrefixRelop(mark.text, value, start=mark.start, end=value.end)

    def env_binding(self, children: Children) -> EnvBinding:
        """`a += b`."""
        left, mark, right = children
        return EnvBinding(left, mark.text, right, start=left.start, end=right.end)

    def pfxop(self, children: Children) -> Pfxop:
        """`!a`."""
        mark, value = children
        return Pfxop(mark.text, value, start=mark.start, end=value.end)


def _section(kind: str, name: str | None, items: list[Item], start: int, end: int) -> Section:
    return Section(kind, name, tuple(items), start=start, end=end)


def _logop(op: Any, operands: tuple[Value, ...]) -> Value:
    if len(operands) == 1:
        return operands[0]
    return Logop(op, operands, start=operands[0].start, end=operands[-1].end)


PARSER: Final = Lark(
    _GRAMMAR,
    parser="lalr",
    lexer=OpamLexer,
    transformer=Builder(),
    keep_all_tokens=True,
    maybe_placeholders=False,
    _plugins={"LALR_Parser": TableDriver},
)
