"""The CI of opam-repository: one durable Temporal workflow per pull request."""

__version__ = "0.1.0"
