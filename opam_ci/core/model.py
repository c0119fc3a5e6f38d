"""The base of every value that crosses a boundary."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable, strict-keyed value.

    Unknown keys are refused so that a typo in a configuration or a payload is an
    error at the edge and not a setting that silently does nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class State(BaseModel):
    """What a workflow knows, and the input of its next run.

    It is changed in place, by that workflow alone, and never by two tasks of it at once. One model
    instead of fields that are copied by hand: what is added to it cannot be lost when the workflow
    continues as new.
    """

    model_config = ConfigDict(extra="forbid")
