"""The connection to Temporal: credentials, converter, identity, search attributes."""

import os
import re
import socket
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import Runtime
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from opam_ci.app.settings import Settings, temporal_profile
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.workflows import options


def identity() -> str:
    """Returns the identity of this process for Temporal and in evidence."""
    return f"{os.getpid()}@{socket.gethostname()}"


LONG_RETRY = RetryConfig(
    max_interval_millis=2_000, max_elapsed_time_millis=60_000, max_retries=1_000
)
"""How long a worker retries requests to Temporal: the default heartbeat timeout of a job. The
SDK's own ten seconds are less than a restart may take."""


async def connect(
    settings: Settings, *, runtime: Runtime | None = None, retry: RetryConfig | None = None
) -> Client:
    """Connects to Temporal, with the certificates and the key of Temporal's own profile.

    Args:
        settings: Of this process.
        runtime: The SDK's, for metrics.
        retry: How requests are retried; the default is for a person who waits.

    Raises:
        UsageError: No server responds at the address, or it refuses this process.
    """
    try:
        own = {} if settings.embedded else temporal_profile().to_client_connect_config()
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename} for the connection to Temporal ({error.strerror}): "
            "check the variables TEMPORAL_TLS_…"
        ) from error
    try:
        return await Client.connect(
            settings.temporal,
            namespace=settings.namespace,
            tls=own.get("tls"),
            api_key=own.get("api_key"),
            rpc_metadata=own.get("rpc_metadata", {}),
            data_converter=pydantic_data_converter,
            identity=identity(),
            runtime=runtime,
            retry_config=retry,
        )
    except (RuntimeError, ValueError, RPCError) as error:
        reason = _reason(error)
        if "refused" in reason:
            raise UsageError(
                f"no Temporal server responds at {settings.temporal} ({reason}); "
                "start one with `opam-ci up`, or choose another with --temporal ADDRESS"
            ) from error
        raise UsageError(
            f"cannot connect to the Temporal server at {settings.temporal} ({reason}): check the "
            "address, and TLS and key in the variables TEMPORAL_… (docs/operations.md)"
        ) from error


async def ensure_search_attributes(client: Client) -> None:
    """Adds our search attributes to the server, unless they exist.

    Raises:
        UsageError: The server rejects them.
    """
    request = AddSearchAttributesRequest(
        namespace=client.namespace,
        search_attributes={
            key.name: IndexedValueType.ValueType(key.indexed_value_type)
            for key in options.SEARCH_ATTRIBUTES
        },
    )
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status is RPCStatusCode.ALREADY_EXISTS:
            return
        # A worker with the rights of its role may not add any, nor need it.
        if error.status is RPCStatusCode.PERMISSION_DENIED and await _has_attributes(client):
            return
        raise UsageError(
            f"the Temporal server rejects our search attributes ({error.message}); an "
            "operator must add them: see docs/operations.md"
        ) from error


async def _has_attributes(client: Client) -> bool:
    """Returns whether the server has our search attributes, for a role that may not add them."""
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return {key.name for key in options.SEARCH_ATTRIBUTES} <= set(known.custom_attributes)


_POLL_TIMEOUT = timedelta(seconds=75)
"""A poll is renewed after a minute; the server remembers pollers for five."""


_JOBS = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
_PRESENCE = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW


async def pollers(
    client: Client, queue: str, kind: TaskQueueType.ValueType = _JOBS
) -> dict[str, datetime]:
    """Returns the pollers of a task queue, by default for activities, with their last poll.

    The server remembers a poller for five minutes.

    Raises:
        InfrastructureError: The request to Temporal failed.
    """
    try:
        description = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace,
                task_queue=TaskQueue(name=queue),
                task_queue_type=kind,
            )
        )
    except RPCError as error:
        raise InfrastructureError(
            f"Temporal cannot describe the task queue {queue}: {error.message}",
            cause=Cause.UNKNOWN,
        ) from error
    return {
        poller.identity: poller.last_access_time.ToDatetime(tzinfo=UTC)
        for poller in description.pollers
    }


async def has_pollers(client: Client, queue: str) -> bool:
    """Returns whether any worker polls a task queue for activities at the moment.

    Raises:
        InfrastructureError: The request to Temporal failed.
    """
    return await _is_polled(client, queue, _JOBS)


async def served(client: Client, queue: str) -> bool:
    """Returns whether a build queue has a worker, even one that takes no jobs at the moment.

    A worker that probes itself, or whose slots are all in use, does not poll for activities; for
    workflow tasks every build worker polls all the time (`worker.build_worker`).

    Raises:
        InfrastructureError: The request to Temporal failed.
    """
    return await _is_polled(client, queue, _PRESENCE) or await has_pollers(client, queue)


async def was_polled(client: Client, queue: str) -> bool:
    """Returns whether a build queue has had a worker in the last five minutes.

    Raises:
        InfrastructureError: The request to Temporal failed.
    """
    return bool(await pollers(client, queue, _PRESENCE) or await pollers(client, queue))


async def _is_polled(client: Client, queue: str, kind: TaskQueueType.ValueType) -> bool:
    now = datetime.now(UTC)
    return any(is_live(seen, now) for seen in (await pollers(client, queue, kind)).values())


def is_live(seen_at: datetime, now: datetime) -> bool:
    """Whether a worker that polled at a time is still running."""
    return now - seen_at < _POLL_TIMEOUT


_REASONS = re.compile(
    r'(?:error|message): "(?P<text>[^"]+)"'
    r"|(?:error: |Transport, |hyper::Error\(|Kind\()(?P<name>[A-Z]\w+(?:\([A-Z]\w+\))?)"
)
"""The parts of the library's nested error texts, as Rust prints them."""


def _reason(error: BaseException) -> str:
    """Returns the innermost part of the library's nested error text."""
    text = str(error)
    found = [each["text"] or each["name"] for each in _REASONS.finditer(text)]
    reason = found[-1] if found else text.partition("\n")[0] or type(error).__name__
    return reason.partition(": http")[0][:100]
