"""The permissions and events that a GitHub App needs, and which of them are missing."""

from collections.abc import Collection, Mapping

PERMISSIONS = {
    "metadata": ("read", "to find the repository"),
    "statuses": ("write", "to post statuses"),
    "pull_requests": ("write", "to list pull requests and to answer commands"),
    "contents": ("read", "to receive pushes to the base branch"),
}
"""Permissions of the repository that are always needed, and their purpose."""

CHECKS = {"checks": ("write", "to show check runs with buttons and annotations")}
"""Needed in addition for check runs."""

EVENTS = {
    "pull_request": "new heads, drafts, other bases, the end of a pull request",
    "issue_comment": "commands in comments",
    "push": "the base branch moved",
}
"""Webhook events to subscribe to, and their meaning. GitHub sends `check_run` and
`check_suite` about an App's own checks, `installation` and `ping` without a subscription."""

_RANK = {"read": 1, "write": 2, "admin": 3}


def missing(
    permissions: Mapping[str, str], events: Collection[str], *, checks: bool
) -> tuple[str, ...]:
    """Returns what is missing, one instruction each; empty if nothing is.

    Args:
        permissions: As GitHub lists them for the App, such as `{"statuses": "write"}`.
        events: Webhook events that the App is subscribed to.
        checks: Whether check runs are used.
    """
    needed = PERMISSIONS | (CHECKS if checks else {})
    lacking = [
        f"give the App the permission {name}: {level} ({purpose})"
        for name, (level, purpose) in needed.items()
        if _RANK.get(permissions.get(name, ""), 0) < _RANK[level]
    ]
    unsubscribed = [
        f"subscribe the App to the event {name} ({purpose})"
        for name, purpose in EVENTS.items()
        if name not in events
    ]
    return (*lacking, *unsubscribed)
