"""What `tests/contract/test_idempotency.py` tests, on a distributed engine."""

from tests.contract.test_idempotency import *  # noqa: F403 - its tests and its fixtures

# They need a unique index that has no distribution column, which Citus does not have.
del test_a_repeated_create_of_what_is_unique_is_answered_again  # noqa: F821
del test_only_a_key_that_is_held_is_in_use  # noqa: F821
