"""The receiver of GitHub's webhooks."""
