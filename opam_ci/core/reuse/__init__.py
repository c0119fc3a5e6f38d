"""When a job is the same as one that ran: keys of what its outcome depends on."""
