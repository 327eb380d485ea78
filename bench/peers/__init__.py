"""The services that ours is measured against, written as people write them."""
