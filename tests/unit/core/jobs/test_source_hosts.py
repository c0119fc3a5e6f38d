"""How long a host that refuses downloads is left alone."""

from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.source_hosts import Refusals, refused

HOST = "example.org:443"


def test_each_refusal_doubles_the_pause_up_to_a_minute() -> None:
    known, now, pauses = None, 1000.0, []
    for _ in range(8):
        known = refused(known, HOST, began_at=now, now=now)
        pauses.append(known.pause(now))
        now += pauses[-1]
        assert known.pause(now) == 0
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_downloads_that_were_under_way_make_the_pause_no_longer() -> None:
    known = refused(None, HOST, began_at=990, now=1000)
    for _ in range(7):
        known = refused(known, HOST, began_at=990, now=1001)
    assert known.pause(1001) == 2


def test_an_old_refusal_means_nothing() -> None:
    known = Refusals(host=HOST, number=9, last_at=1000)
    assert not known.is_forgotten(1600)
    assert known.is_forgotten(1601)
    assert refused(known, HOST, began_at=1601, now=1601).number == 1


@given(
    st.integers(1, 1_000_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_no_clock_and_no_number_makes_a_pause_longer_than_a_minute(
    number: int, last_at: float, now: float
) -> None:
    known = Refusals(host=HOST, number=number, last_at=last_at)
    assert 0 <= known.pause(now) <= 60
    assert refused(known, HOST, began_at=now, now=now).number <= 1_000_000
