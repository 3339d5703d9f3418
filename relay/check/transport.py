"""What travels unencrypted, or to somebody whose certificate is not verified."""

from sqlalchemy import make_url

from outbox.network import remote_hosts, sslmode, tls_arguments
from relay.check.finding import Finding, ok, warning
from relay.settings import RelaySettings, plaintext_host

VERIFIED = "verify-full"
ENCRYPTED = frozenset({"require", "verify-ca", VERIFIED})
VERIFY = "add sslmode=verify-full and sslrootcert=FILE (or sslrootcert=system) to DATABASE_URL"


def check_database_transport(database_url: str) -> list[Finding]:
    """Whether password and rows are encrypted on their way to PostgreSQL, and the server is who it says."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" or not (hosts := remote_hosts(url)):
        return [ok("database TLS", "not needed: the database is on this machine")]
    mode = tls_arguments(url).get("sslmode") or sslmode(url) or "prefer"
    seen = f"sslmode={mode} to {', '.join(hosts)}"
    if mode == VERIFIED:
        return [ok("database TLS", f"{seen}: the server's certificate is verified")]
    if mode in ENCRYPTED:
        return [warning("database TLS", f"{seen}: encrypted, but not verified to be this server", VERIFY)]
    return [warning("database TLS", f"{seen}: password and interactions may be read on the way", VERIFY)]


def check_http_transport(settings: RelaySettings) -> list[Finding]:
    """Logins that ``ALLOW_PLAINTEXT_CREDENTIALS`` lets out, and services whose answers anybody could change."""
    cure = "unset ALLOW_PLAINTEXT_CREDENTIALS, and use TLS; HTTP_CA_LOCATION trusts a private authority"
    findings = [warning("unencrypted login", seen, cure) for seen, _ in settings.plaintext_credentials()]
    registries = [("SCHEMA_REGISTRY_URL", url.strip()) for url in settings.schema_registry_url.split(",")]
    for name, url in (*registries, ("INFERENCE_URL", settings.inference_url or "")):
        if url and (host := plaintext_host(url)) is not None:
            seen = f"{name}: what {host} is asked and answers can be read and changed on the way"
            findings.append(warning("unencrypted HTTP", seen, f"let {name} be an https URL"))
    return findings or [ok("HTTP TLS", "every service that is not on this machine is spoken to over TLS")]
