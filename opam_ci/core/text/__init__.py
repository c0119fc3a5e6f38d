"""Texts for users in statuses, tables and the Temporal Web UI."""
