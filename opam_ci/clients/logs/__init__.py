"""The store of artifacts, and the logs in it."""
