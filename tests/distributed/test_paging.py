"""What `tests/items/test_paging.py` tests, on a distributed engine."""

from tests.items.test_paging import *  # noqa: F403 - its tests and its fixtures

# The coordinator's plan merges what each shard has read and sorted.
del test_a_late_page_reads_its_own_rows_only  # noqa: F821
