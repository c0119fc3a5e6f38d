"""Adapters that do I/O; none of them knows Temporal."""
