"""Workflows only orchestrate."""
