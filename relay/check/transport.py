"""Connections to other machines: encrypted, to a server whose certificate is verified."""

from sqlalchemy import make_url

from outbox.db.tls import remote_hosts, sslmode, tls_arguments
from relay.check.finding import Finding, ok, warning
from relay.settings import RelaySettings, plaintext_host

VERIFIED = "verify-full"
ENCRYPTED = frozenset({"require", "verify-ca", VERIFIED})
VERIFY = "add sslmode=verify-full and sslrootcert=FILE (or sslrootcert=system) to DATABASE_URL"


def check_database_transport(database_url: str) -> list[Finding]:
    """Check whether the connection to PostgreSQL is encrypted, and the server's certificate verified."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" or not (hosts := remote_hosts(url)):
        return [ok("database TLS", "not needed: the database is on this machine")]
    mode = tls_arguments(url).get("sslmode") or sslmode(url) or "prefer"
    detail = f"sslmode={mode} to {', '.join(hosts)}"
    if mode == VERIFIED:
        return [ok("database TLS", f"{detail}: the server's certificate is verified")]
    if mode in ENCRYPTED:
        return [warning("database TLS", f"{detail}: encrypted, but the server is not verified", VERIFY)]
    return [warning("database TLS", f"{detail}: password and interactions may be read in transit", VERIFY)]


def check_http_transport(settings: RelaySettings) -> list[Finding]:
    """Check for logins that are sent unencrypted, and for services whose answers could be changed in transit."""
    remedy = "unset ALLOW_PLAINTEXT_CREDENTIALS and use TLS; HTTP_CA_LOCATION adds a private authority"
    findings = [warning("unencrypted login", detail, remedy) for detail, _ in settings.plaintext_credentials()]
    registries = [("SCHEMA_REGISTRY_URL", url.strip()) for url in settings.schema_registry_url.split(",")]
    for name, url in (*registries, ("INFERENCE_URL", settings.inference_url or "")):
        if url and (host := plaintext_host(url)) is not None:
            detail = f"{name}: requests to {host} and its answers can be read and changed in transit"
            findings.append(warning("unencrypted HTTP", detail, f"set {name} to an https URL"))
    return findings or [ok("HTTP TLS", "every service on another machine is called over TLS")]
