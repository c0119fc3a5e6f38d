"""Incidents: faults of one cause, the jobs that they hit, and the restart of these jobs."""
