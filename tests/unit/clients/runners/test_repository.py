"""A build counts the packages that it sees, so that a repository that lost some is noticed."""

import pytest

from opam_ci.clients.runners.images.layer import LayerManifest
from opam_ci.clients.runners.job.driver import check_repository
from opam_ci.core.jobs.build import RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

BASE = frozenset({"a.1", "b.1", "c.1"})


def check(submitted: set[str], *, merged: int, overlay: int | None = None, hidden: int = 0) -> None:
    base = LayerManifest(base_commit="b" * 40, packages=BASE, installed=frozenset(), hidden=hidden)
    expected = RepositoryRef(
        base_commit="b" * 40,
        base_archive="base",
        overlay_archive="overlay",
        overlay_packages=len(submitted) if overlay is None else overlay,
        package_count=merged,
    )
    check_repository(base, frozenset(submitted), expected)


def test_what_a_merge_can_do_is_accepted() -> None:
    check(set(), merged=3)
    check({"a.1"}, merged=3)  # changed
    check({"a.2"}, merged=4)  # new
    check({"a.1"}, merged=2)  # deleted: the overlay has it as unavailable


def test_hidden_packages_may_be_changed_and_deleted_too() -> None:
    check({"h.1"}, merged=8, hidden=5)  # changed: 3 seen, 5 hidden, of them h.1
    check({"h.1"}, merged=7, hidden=5)  # deleted
    check({"h.1", "h.2", "n.1"}, merged=7, hidden=5)  # two deleted, one new


@pytest.mark.parametrize(
    ("submitted", "merged", "overlay", "hidden"),
    [
        (set(), 4, None, 0),  # the base lost one
        ({"a.2"}, 5, None, 0),
        (set(), 2, None, 0),  # it has one too many
        ({"a.2"}, 4, 2, 0),  # the submission lost one
        ({"a.1"}, 6, None, 5),  # nothing hidden is in the submission
        ({"h.1"}, 6, None, 5),
    ],
)
def test_lost_and_surplus_packages_are_noticed(
    submitted: set[str], merged: int, overlay: int | None, hidden: int
) -> None:
    with pytest.raises(InfrastructureError) as caught:
        check(submitted, merged=merged, overlay=overlay, hidden=hidden)
    assert caught.value.cause is Cause.REPOSITORY_STATE
