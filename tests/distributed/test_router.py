"""What `tests/items/test_router.py` tests, on a distributed engine."""

from tests.items.test_router import *  # noqa: F403 - its tests and its fixtures

# It needs an item with the id 1, which another test has taken away: one cluster serves all tests.
del test_head_is_get_without_the_body  # noqa: F821
# Its own UPDATE is one that Citus does not run ("STABLE functions used in UPDATE queries").
del test_patch_changes_what_it_names_and_nothing_else  # noqa: F821
