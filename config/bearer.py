"""The bearer token that protects metrics."""

import hmac


def is_bearer(authorization: str, token: bytes) -> bool:
    """Return whether a header has the scheme ``Bearer`` and the token, compared in constant time.

    Args:
        authorization: the header ``Authorization`` as HTTP libraries decode it (latin-1); empty: it is absent.
        token: what is expected.
    """
    scheme, _, given = authorization.partition(" ")
    return hmac.compare_digest(given.strip(" ").encode("latin-1", "replace"), token) and scheme.lower() == "bearer"
