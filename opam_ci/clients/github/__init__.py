"""GitHub's API, and what is remembered of its deliveries."""
