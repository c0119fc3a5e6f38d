"""A build worker watches itself, and steps back from its queue when it is not well."""
