"""The digest of what a head changes."""

from opam_ci.core.submission.inputs import changes_digest
from opam_ci.core.submission.result import ChangedPackage, ChangeKind

NEW = ChangedPackage(package="a.1", kind=ChangeKind.NEW_RELEASE, has_tests=True)
OTHER = ChangedPackage(package="b.1", kind=ChangeKind.DELETED, has_tests=False)


def test_package_kind_tests_and_content_count() -> None:
    alike = [
        changes_digest((NEW, OTHER), {"a.1": "1"}),
        # What the head does not change counts for nothing.
        changes_digest((NEW, OTHER), {"a.1": "1", "c.1": "2"}),
    ]
    others = [
        changes_digest((NEW,), {"a.1": "1"}),
        changes_digest((NEW, OTHER), {"a.1": "2"}),
        changes_digest((NEW.model_copy(update={"has_tests": False}), OTHER), {"a.1": "1"}),
        changes_digest(
            (NEW.model_copy(update={"kind": ChangeKind.NEW_PACKAGE}), OTHER), {"a.1": "1"}
        ),
    ]
    assert len(set(alike)) == 1
    assert len({*alike, *others}) == 5
