"""The health of a build worker, which stops polling while it is unhealthy."""
