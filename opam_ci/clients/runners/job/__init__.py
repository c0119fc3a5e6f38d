"""One attempt of a job, from its first phase to its report."""
