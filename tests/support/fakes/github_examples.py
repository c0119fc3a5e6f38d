"""Payloads to vary: the fake's, and GitHub's own if they are available."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.fakes.github_bodies import Pull, comment, pull_request_whole, repository, user

NAME = "Codertocat/Hello-World"
APP = 29310


def examples(file: Path) -> list[tuple[str, bytes]]:
    """Returns events and their payloads.

    Args:
        file: GitHub's examples by event; need not exist.
    """
    found = ours()
    if file.is_file():
        found += [
            (event, json.dumps(payload).encode())
            for event, payloads in json.loads(file.read_text()).items()
            for payload in payloads
        ]
    return found


def ours() -> list[tuple[str, bytes]]:
    """Returns one payload of each event that can start something."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    head = "1" * 40
    pull = pull_request_whole(NAME, Pull(number=7, head=head, base="b" * 40), at)
    issue = {"number": 7, "state": "open", "user": user("alice"), "pull_request": {}}
    words = comment(NAME, 1, 7, "/opam-ci restart all", by="carol", at=at)
    run = {"head_sha": head, "app": {"id": APP}, "external_id": f"pr/{NAME}/7"}
    payloads: dict[str, dict[str, Any]] = {
        "pull_request": {"action": "opened", "pull_request": pull},
        "issue_comment": {"action": "created", "issue": issue, "comment": words},
        "check_run": {"action": "rerequested", "check_run": run},
        "push": {"ref": "refs/heads/master", "after": head},
        "installation": {"action": "created"},
    }
    about = {"repository": repository(NAME), "sender": user("carol")}
    return [(event, json.dumps(payload | about).encode()) for event, payload in payloads.items()]
