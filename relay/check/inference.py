"""The inference endpoint: allowed and reachable."""

from http import HTTPStatus
from urllib.parse import urlsplit

from relay.check.finding import Finding, failure, ok, warning
from relay.check.http_service import no_answer
from relay.errors import MisconfiguredError
from relay.http_client import HttpClient
from relay.inference.policy import require_allowed_host
from relay.settings import RelaySettings

SUBJECT = "inference"
ANSWER_TIMEOUT_SECONDS = 5.0


def check_inference(settings: RelaySettings) -> list[Finding]:
    """Check the endpoint with an OPTIONS request, which has no body and makes no inference call."""
    url = settings.inference_url
    if url is None:
        return [ok(SUBJECT, "INFERENCE_URL is not set: no calls are made")]
    host = urlsplit(url).hostname or ""
    try:
        require_allowed_host(url, settings.inference_allowed_hosts)
    except MisconfiguredError as error:
        return [failure(SUBJECT, str(error), "add the host to INFERENCE_ALLOWED_HOSTS, or correct INFERENCE_URL")]
    token = settings.inference_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    answer = HttpClient(1, headers, ANSWER_TIMEOUT_SECONDS, settings.http_ca_location).request("OPTIONS", url)
    if answer.status is None:
        return [no_answer(SUBJECT, host, answer.error or "", "INFERENCE_URL")]
    return [judge_inference(host, answer.status)]


def judge_inference(host: str, status: int) -> Finding:
    """Decide what an answer to OPTIONS means. Any answer shows that the endpoint exists."""
    detail = f"{host} answers OPTIONS with {status}"
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return failure(SUBJECT, detail, "check INFERENCE_TOKEN and its rights: calls that are refused so are parked")
    if status == HTTPStatus.NOT_FOUND:
        return warning(SUBJECT, detail, "check the path of INFERENCE_URL: calls that are answered 404 are parked")
    if status == HTTPStatus.TOO_MANY_REQUESTS or (status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED):
        return warning(SUBJECT, detail, "wait for it to recover: calls stay in the outbox meanwhile")
    return ok(SUBJECT, detail)
