"""Bearer tokens: the issuer's keys, and what a verified token says about its caller."""

from app.core.auth.identity import ANONYMOUS, Identity

__all__ = ["ANONYMOUS", "Identity"]
