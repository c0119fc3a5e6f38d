"""What the states of workflows promise to the index."""

from datetime import UTC, datetime, timedelta

from opam_ci.core.jobs.messages import opened_at

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_the_first_testing_is_opened_now() -> None:
    assert opened_at(NOW, None) == NOW


def test_of_two_testings_that_begin_at_once_the_second_is_newer() -> None:
    assert opened_at(NOW, NOW) > NOW
    assert opened_at(NOW, NOW - timedelta(seconds=1)) == NOW
