"""Logs as lines: where each begins, its number, its colours, and what of it is shown."""
