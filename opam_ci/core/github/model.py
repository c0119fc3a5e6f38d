"""The base model of GitHub's payloads, and the types of their fields."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Tolerant(BaseModel):
    """A value of GitHub's: keys that are not needed are ignored, whatever they hold.

    The opposite of `Frozen`, on purpose: GitHub adds fields at any time, and a strict
    model would turn that into lost deliveries. Fields that are needed are validated.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?\z")]
"""Object id of a commit."""

Login = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\[\]-]{1,100}\z")]
"""Name of an account; those of Apps end in `[bot]`."""

RepositoryName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}\z")]
"""Owner and name, such as `ocaml/opam-repository`."""

RefName = Annotated[str, Field(min_length=1, max_length=400)]
"""Name of a branch, with or without `refs/heads/`: compared, shown, never executed."""

HEAD_GONE = "head-gone"
"""Rule of the fault of a head that does not exist on GitHub any more."""

Number = Annotated[int, Field(strict=True, ge=1, le=2**53)]
"""Number of a pull request or of any object of GitHub's."""

Word = Annotated[str, Field(max_length=100)]
"""A keyword of GitHub's, such as an action: bounded, since it may end up in a log."""
