"""The loop that runs lark's LALR tables over tokens.

lark builds the tables from the grammar and resolves its conflicts; only its own loop, which
is made to be paused, copied and debugged, is replaced by one that does nothing else. That
makes parsing twice as fast (docs/analysis.md has the measurement). The hook is the one that
lark offers to lark-cython (`_plugins`).
"""

from sys import intern
from typing import Any

from lark.exceptions import UnexpectedToken
from lark.parsers.lalr_analysis import Shift
from lark.parsers.lalr_parser import LALR_Parser

# For each state and symbol a state to go to, or a rule to reduce by: its callback, its
# length, the name of its result.
_Table = dict[Any, dict[str, Any]]


class TableDriver(LALR_Parser):
    """lark's LALR parser with a plain loop; one start symbol, no error recovery."""

    def __init__(self, parser_conf: Any, **options: Any) -> None:
        """Flatten the tables that lark builds."""
        super().__init__(parser_conf, **options)
        table = self._parse_table
        self._flat: _Table = {
            state: {
                # lark's names are tokens, which compare in Python; plain strings do not.
                intern(str(symbol)): argument
                if action is Shift
                else (
                    parser_conf.callbacks[argument],
                    len(argument.expansion),
                    intern(str(argument.origin.name)),
                )
                for symbol, (action, argument) in actions.items()
            }
            for state, actions in table.states.items()
        }
        (self._start,) = table.start_states.values()

    def parse(self, lexer: Any, start: str, on_error: Any = None) -> Any:  # noqa: ARG002 -- lark's signature
        """Parse all tokens; the last one is the grammar's own end of file.

        Raises:
            UnexpectedToken: A token that the grammar does not allow there.
        """
        table = self._flat
        states = [self._start]
        values: list[Any] = []
        for token in lexer.lex(None):
            symbol = token.type
            entry = table[states[-1]].get(symbol)
            while entry.__class__ is tuple:
                reduce, length, made = entry
                if length == 1:  # most rules are; their state is replaced
                    states[-1] = table[states[-2]][made]
                    values[-1] = reduce(values[-1:])
                else:
                    children = values[-length:] if length else []
                    if length:
                        del states[-length:]
                        del values[-length:]
                    states.append(table[states[-1]][made])
                    values.append(reduce(children))
                entry = table[states[-1]].get(symbol)
            if entry is None:
                raise UnexpectedToken(token, set())  # type: ignore[no-untyped-call]  # lark has no types here
            states.append(entry)
            values.append(token)
        # The start rule is `items EOF`, so the items are what the first value is.
        return values[0]
