"""Incidents: faults that belong together, what they hit, and how that is undone."""
