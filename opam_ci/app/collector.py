"""Python's garbage collector in processes that serve for long."""

import gc


def tune_gc() -> None:
    """Raises the GC thresholds and freezes start-up objects.

    Open workflows and their rows live long, as do templates and the code of the server: scanning
    them after every 700 new objects took a twentieth of the processor time of a worker
    (bench/scale.py), and 70 ms of every tenth page (bench/pages.py).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
