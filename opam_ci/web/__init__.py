"""What listens: webhooks, pages, metrics."""
