"""The tree of exceptions that our code raises on purpose.

`activities/boundary.py` is the one place that turns them into Temporal errors;
`cli/` turns them into one line and an exit code.

    OpamCiError
    ├── UsageError            the caller asked for something that cannot be: exit 2
    ├── SubmissionError       the pull request is at fault: a package failure
    └── InfrastructureError   the CI is at fault: retried with backoff

The last two decide what becomes of a job; they are in `core/jobs/errors.py`.
"""


class OpamCiError(Exception):
    """Base of every exception that this project raises on purpose."""


class UsageError(OpamCiError):
    """The request itself is wrong; its text says what to do instead."""
