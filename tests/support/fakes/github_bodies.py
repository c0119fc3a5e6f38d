"""The objects in the fake GitHub's responses, whole, as GitHub's description has them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

API = "https://api.github.com"
WEB = "https://github.com"

Body = dict[str, Any]


@dataclass
class Pull:
    """A pull request of the fake."""

    number: int
    head: str
    base: str
    base_ref: str = "master"
    author: str = "alice"
    association: str = "CONTRIBUTOR"
    title: str = "Add a package"
    state: str = "open"
    draft: bool = False
    merged: bool = False
    fork_deleted: bool = False
    changed_files: int = 1
    updated_at: datetime | None = None


@dataclass
class Run:
    """A check run of the fake."""

    id: int
    wanted: Body
    annotations: list[Body] = field(default_factory=list)


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(name: str) -> int:
    return 1000 + sum(ord(char) * place for place, char in enumerate(name, 1))


def _urls(base: str, names: Iterable[str]) -> Body:
    return {f"{name}_url": f"{base}/{name}" for name in names}


def user(login: str) -> Body:
    names = "events followers following gists organizations received_events repos starred"
    return {
        "login": login,
        "id": _number(login),
        "node_id": f"U_{login}",
        "avatar_url": f"{WEB}/{login}.png",
        "gravatar_id": "",
        "url": f"{API}/users/{login}",
        "html_url": f"{WEB}/{login}",
        **_urls(f"{API}/users/{login}", [*names.split(), "subscriptions"]),
        "type": "Bot" if login.endswith("[bot]") else "User",
        "site_admin": False,
    }


def repository(full_name: str) -> Body:
    owner, _, name = full_name.partition("/")
    api = f"{API}/repos/{full_name}"
    names = (
        "archive assignees blobs branches collaborators comments commits compare contents "
        "contributors deployments downloads events forks git_commits git_refs git_tags hooks "
        "issue_comment issue_events issues keys labels languages merges milestones "
        "notifications pulls releases stargazers statuses subscribers subscription tags teams "
        "trees"
    )
    counts = "forks forks_count open_issues open_issues_count size stargazers_count"
    return {
        "id": _number(full_name),
        "node_id": f"R_{name}",
        "name": name,
        "full_name": full_name,
        "owner": user(owner),
        "private": False,
        "html_url": f"{WEB}/{full_name}",
        "description": None,
        "fork": False,
        "url": api,
        **_urls(api, names.split()),
        "clone_url": f"{WEB}/{full_name}.git",
        "git_url": f"git:github.com/{full_name}.git",
        "ssh_url": f"git@github.com:{full_name}.git",
        "svn_url": f"{WEB}/{full_name}",
        "mirror_url": None,
        "homepage": None,
        "language": None,
        "license": None,
        **dict.fromkeys([*counts.split(), "watchers", "watchers_count"], 0),
        "default_branch": "master",
        **{f"has_{what}": True for what in ("issues", "projects", "wiki", "pages", "downloads")},
        "archived": False,
        "disabled": False,
        "pushed_at": "2026-01-01T00:00:00Z",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
    }


def _branch(full_name: str, ref: str, sha: str, *, deleted: bool = False) -> Body:
    owner = full_name.partition("/")[0]
    return {
        "label": f"{owner}:{ref}",
        "ref": ref,
        "sha": sha,
        "user": user(owner),
        "repo": None if deleted else repository(full_name),
    }


def pull_request(full_name: str, pull: Pull, at: datetime) -> Body:
    """As listed; `pull_request_whole` has more."""
    api, web = f"{API}/repos/{full_name}", f"{WEB}/{full_name}/pull/{pull.number}"
    url, issue = f"{api}/pulls/{pull.number}", f"{api}/issues/{pull.number}"
    links = {
        "self": url,
        "html": web,
        "issue": issue,
        "comments": f"{issue}/comments",
        "review_comments": f"{url}/comments",
        "review_comment": f"{api}/pulls/comments{{/number}}",
        "commits": f"{url}/commits",
        "statuses": f"{api}/statuses/{pull.head}",
    }
    fork = f"{pull.author}/{full_name.partition('/')[2]}"
    closed = None if pull.state == "open" else stamp(at)
    return {
        "id": 5000 + pull.number,
        "node_id": f"PR_{pull.number}",
        "number": pull.number,
        "url": url,
        "html_url": web,
        "diff_url": f"{web}.diff",
        "patch_url": f"{web}.patch",
        "issue_url": issue,
        **{
            f"{name}_url": links[name]
            for name in ("commits", "review_comments", "review_comment", "comments", "statuses")
        },
        "_links": {name: {"href": link} for name, link in links.items()},
        "state": pull.state,
        "locked": False,
        "title": pull.title,
        "user": user(pull.author),
        "body": None,
        "labels": [],
        "milestone": None,
        "assignee": None,
        "auto_merge": None,
        "author_association": pull.association,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": stamp(at),
        "closed_at": closed,
        "merged_at": closed if pull.merged else None,
        "merge_commit_sha": None,
        "draft": pull.draft,
        "head": _branch(fork, "patch-1", pull.head, deleted=pull.fork_deleted),
        "base": _branch(full_name, pull.base_ref, pull.base),
    }


def pull_request_whole(full_name: str, pull: Pull, at: datetime) -> Body:
    return {
        **pull_request(full_name, pull, at),
        "merged": pull.merged,
        "merged_by": None,
        "mergeable": None,
        "mergeable_state": "unknown",
        "maintainer_can_modify": False,
        **dict.fromkeys(("comments", "review_comments", "deletions", "commits"), 0),
        "additions": pull.changed_files,
        "changed_files": pull.changed_files,
    }


def status(full_name: str, number: int, wanted: Body, at: datetime, by: str) -> Body:
    return {
        "id": number,
        "node_id": f"SC_{number}",
        "url": f"{API}/repos/{full_name}/statuses/{wanted['sha']}",
        "avatar_url": None,
        "state": wanted["state"],
        "description": wanted.get("description"),
        "target_url": wanted.get("target_url"),
        "context": wanted.get("context", "default"),
        "created_at": stamp(at),
        "updated_at": stamp(at),
        "creator": user(by),
    }


def app(app_id: int, permissions: dict[str, str], events: list[str]) -> Body:
    return {
        "id": app_id,
        "slug": "opam-ci",
        "node_id": f"A_{app_id}",
        "owner": user("ocaml"),
        "name": "opam-ci",
        "description": None,
        "external_url": "https://ci.example.org",
        "html_url": f"{WEB}/apps/opam-ci",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "permissions": permissions,
        "events": events,
    }


def installation(
    number: int, full_name: str, app_id: int, permissions: dict[str, str], events: list[str]
) -> Body:
    owner = full_name.partition("/")[0]
    return {
        "id": number,
        "account": user(owner),
        "app_id": app_id,
        "app_slug": "opam-ci",
        "target_id": _number(owner),
        "target_type": "Organization",
        "repository_selection": "selected",
        "access_tokens_url": f"{API}/app/installations/{number}/access_tokens",
        "repositories_url": f"{API}/installation/repositories",
        "html_url": f"{WEB}/organizations/{owner}/settings/installations/{number}",
        "permissions": permissions,
        "events": events,
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "single_file_name": None,
        "suspended_by": None,
        "suspended_at": None,
    }


def check_run(full_name: str, run: Run, owner: Body) -> Body:
    wanted = run.wanted
    url = f"{API}/repos/{full_name}/check-runs/{run.id}"
    output = wanted.get("output", {})
    return {
        "id": run.id,
        "node_id": f"CR_{run.id}",
        "head_sha": wanted["head_sha"],
        "name": wanted["name"],
        "external_id": wanted.get("external_id", ""),
        "url": url,
        "html_url": f"{WEB}/{full_name}/runs/{run.id}",
        "details_url": wanted.get("details_url"),
        "status": "completed" if wanted.get("conclusion") else wanted.get("status", "queued"),
        "conclusion": wanted.get("conclusion"),
        "started_at": wanted.get("started_at"),
        "completed_at": wanted.get("completed_at"),
        "output": {
            "title": output.get("title"),
            "summary": output.get("summary"),
            "text": output.get("text"),
            "annotations_count": len(run.annotations),
            "annotations_url": f"{url}/annotations",
        },
        "check_suite": {"id": 1},
        "app": owner,
        # As for heads in forks: GitHub names no pull request for them.
        "pull_requests": [],
    }


def permission(login: str, role: str) -> Body:
    coarse = {"maintain": "write", "triage": "read"}.get(role, role)
    return {
        "permission": coarse,
        "role_name": role,
        "user": {**user(login), "role_name": role},
    }


def comment(  # noqa: PLR0913 - as many as a comment has
    full_name: str, number: int, issue: int, text: str, *, by: str, at: datetime
) -> Body:
    return {
        "id": number,
        "node_id": f"IC_{number}",
        "url": f"{API}/repos/{full_name}/issues/comments/{number}",
        "html_url": f"{WEB}/{full_name}/pull/{issue}#issuecomment-{number}",
        "issue_url": f"{API}/repos/{full_name}/issues/{issue}",
        "body": text,
        "user": user(by),
        "created_at": stamp(at),
        "updated_at": stamp(at),
        "author_association": "NONE",
    }
