"""What GitHub says and is told: payloads, decisions, statuses. Pure."""
