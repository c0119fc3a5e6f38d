"""What a job has on a machine without namespaces: a user, a directory, a keeper."""
