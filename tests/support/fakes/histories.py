"""Reading histories of workflows."""

from temporalio.client import WorkflowHistory


def children_of(history: WorkflowHistory) -> list[str]:
    """Returns the ids of the child workflows that one has started, in their order."""
    return [
        event.child_workflow_execution_started_event_attributes.workflow_execution.workflow_id
        for event in history.events
        if event.HasField("child_workflow_execution_started_event_attributes")
    ]
