"""Retries after infrastructure faults: pure arithmetic, no clock."""

from datetime import timedelta
from typing import Self

from pydantic import Field, model_validator

from opam_ci.core.model import Frozen


class RetrySettings(Frozen):
    """Backoff of a job that met an infrastructure fault.

    The defaults give waits of 1, 3, 9 and 27 minutes: short enough for a restarted
    host, long enough in sum for an operator to repair one; then the job is `errored`.

    Attributes:
        initial_interval: Wait after the first fault.
        backoff_coefficient: Factor for each further one.
        maximum_interval: Cap of one wait, no less than the first.
        maximum_attempts: Attempts of a round.
        jitter: Fraction of a wait by which it varies at random, so that jobs that met
            one fault together are not retried together.
    """

    initial_interval: timedelta = timedelta(seconds=60)
    backoff_coefficient: float = Field(default=3.0, ge=1.0)
    maximum_interval: timedelta = timedelta(minutes=30)
    maximum_attempts: int = Field(default=5, ge=1)
    jitter: float = Field(default=0.2, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _cap_above_first_wait(self) -> Self:
        # Temporal rejects such a policy, and the workflow that sets it would hang.
        if self.maximum_interval < self.initial_interval:
            raise ValueError("the longest wait before a retry is shorter than the first one")
        return self

    @classmethod
    def beginning_with(cls, first: timedelta, *, attempts: int) -> Self:
        """Returns the default backoff with another first wait, and a higher cap if needed.

        Args:
            first: Wait after the first fault.
            attempts: Attempts of a round.
        """
        longest = max(first, cls().maximum_interval)
        return cls(initial_interval=first, maximum_interval=longest, maximum_attempts=attempts)

    def delay(
        self, attempt: int, *, chance: float = 0.5, retry_after: timedelta | None = None
    ) -> timedelta:
        """Returns the wait after a faulted attempt.

        Args:
            attempt: The attempt that faulted, from 1.
            chance: A random number in [0, 1) from the caller; 0.5 means no jitter.
            retry_after: Minimum wait, as requested by the remote side.
        """
        # The exponent is bounded so that a huge attempt number cannot overflow a float.
        factor = self.backoff_coefficient ** min(attempt - 1, 64)
        seconds = min(
            self.initial_interval.total_seconds() * factor,
            self.maximum_interval.total_seconds(),
        )
        wait = timedelta(seconds=seconds * (1 + self.jitter * (2 * chance - 1)))
        return max(wait, retry_after) if retry_after else wait

    def is_last(self, attempt: int) -> bool:
        """Whether no attempt follows this one."""
        return attempt >= self.maximum_attempts
