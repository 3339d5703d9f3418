"""Findings about services that are called over HTTP."""

from relay.check.finding import Finding, failure
from relay.http_client import NAME_UNKNOWN, TLS_FAILED


def no_answer(subject: str, address: str, error: str, variable: str) -> Finding:
    """The service does not answer.

    Args:
        subject: the finding's subject.
        address: host or URL, without a login.
        error: what went wrong, as the HTTP client says it.
        variable: the setting that names the service.
    """
    detail = f"{address} does not answer ({error})"
    if error == TLS_FAILED:
        remedy = f"check its certificate and HTTP_CA_LOCATION, and that the certificate is for the host in {variable}"
        return failure(subject, detail, remedy)
    if error == NAME_UNKNOWN:
        return failure(subject, detail, f"correct the host in {variable}")
    return failure(subject, detail, f"start it, open the network path to it, or correct {variable}")
