"""Settings of the garbage collector in a worker."""

import gc

# Python's own are 700 (2,000 since 3.13), 10, 10. Full collections are cheap once imported objects are frozen, so they
# are frequent: with 10,000, 10, 10 a worker uses 10 MB more, and saves no time (docs/performance.md).
_GC_THRESHOLDS = 3_000, 2, 2


def freeze_imports() -> None:
    """Exclude imported objects from garbage collection: they live as long as the process.

    Otherwise each full collection goes through all modules, classes and schemas, and stops this worker for 50 ms and
    more; that was the 99th percentile of a read (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
