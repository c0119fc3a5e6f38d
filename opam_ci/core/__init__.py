"""Pure logic: no I/O, clock, randomness, Temporal or HTTP."""
