"""Colours: the state after any output, however it is divided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.logs.sgr import PLAIN, Sgr, SgrScanner, after, classes, state_of, text_of


@pytest.mark.parametrize(
    ("data", "state"),
    [
        (b"", ()),
        (b"\x1b[31m", (31,)),
        (b"\x1b[1;31m", (1, 31)),
        (b"\x1b[1m\x1b[31m\x1b[32m", (1, 32)),
        (b"\x1b[31;42mx\x1b[0m", ()),
        (b"\x1b[31mx\x1b[m", ()),
        (b"\x1b[31mx\x1b[my\x1b[4m", (4,)),
        (b"\x1b[1;2;3;4;7;9m\x1b[22;23;24;27;29m", ()),
        (b"\x1b[91;101m\x1b[39m", (101,)),
        (b"\x1b[31;41m\x1b[49m", (31,)),
        (b"\x1b[21m", (4,)),
        (b"\x1b[4m\x1b[4:0m", ()),
        (b"\x1b[4:3m", (4,)),
        (b"\x1b[38;5;9m", (91,)),
        (b"\x1b[38;5;196;1m", (1, 91)),
        (b"\x1b[48;5;255m", (47,)),
        (b"\x1b[38;2;200;10;10;4m", (4, 31)),
        (b"\x1b[38:2::200:10:10m", (31,)),
        (b"\x1b[38;5m\x1b[38m\x1b[38;5;999m\x1b[38;7;1m", (1,)),
        (b"\x1b[8;5;6;53;77m", ()),
        (b"\x1b[99999999999;1m", (1,)),
        (b"\x1b[" + b"1;" * 40 + b"1m", ()),
        (b"\x1b[?31m\x1b[>4m\x1b[31;1H\x1b[31", ()),
    ],
)
def test_the_state_is_that_of_a_terminal(data: bytes, state: Sgr) -> None:
    assert after(PLAIN, data) == state


PIECES = st.lists(
    st.one_of(
        st.sampled_from([b"\x1b", b"\x1b[", b"31", b"m", b";", b"\x1b[0m", b"\x1b[1;31m", b"x\n"]),
        st.binary(max_size=6),
    ),
    max_size=12,
)


@given(PIECES)
def test_a_divided_sequence_is_whole_again(pieces: list[bytes]) -> None:
    scanner = SgrScanner()
    for piece in pieces:
        scanner.feed(piece)
    assert scanner.state == after(PLAIN, b"".join(pieces))


@given(PIECES)
def test_a_state_can_be_written_and_read(pieces: list[bytes]) -> None:
    state = after(PLAIN, b"".join(pieces))
    assert state_of(text_of(state)) == state
    assert classes(state) == " ".join(f"sgr{code}" for code in state)
