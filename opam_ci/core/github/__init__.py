"""GitHub's payloads, their actions, statuses and check runs. Pure."""
