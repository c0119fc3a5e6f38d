"""What the processes are composed of: settings, connections, schedules, monitoring, shutdown."""
