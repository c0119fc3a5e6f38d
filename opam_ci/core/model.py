"""The base of every value that crosses a boundary."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable, strict-keyed value.

    Unknown keys are refused so that a typo in a configuration or a payload is an
    error at the edge and not a setting that silently does nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
