"""Thin activities: input, client, core, result."""
