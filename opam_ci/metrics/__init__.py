"""What operators measure: metrics in Prometheus' format, and where they come from."""
