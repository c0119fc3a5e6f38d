"""Isolation: processes, bubblewrap, control groups, disk budgets, safe reads."""
