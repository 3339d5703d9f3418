"""Settings that OpenTelemetry's SDK refuses."""

import pytest

from config.logging import configure_logging
from config.settings import BaseSettings, load
from config.tracing import NO_TRACER, start_tracer
from testkit.log_schema import check_lines


def test_a_setting_that_the_sdk_refuses_switches_traces_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process goes on and logs which one. A malformed header, which may be a token, is not quoted."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer canary")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json"}), "web")
    assert start_tracer("cxone-outbox-web") is NO_TRACER
    written = capsys.readouterr().err
    header, off = check_lines(written.splitlines())
    assert (header["action"], off["action"], off["level"]) == ("library", "traces_off", "error")
    assert "Header format invalid" in header["event"]
    assert "max_export_batch_size" in off["event"]
    assert "canary" not in written


def test_a_provider_of_credentials_that_is_missing_switches_traces_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The SDK's error is of another kind there; the process goes on all the same."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "none-such")
    configure_logging(load(BaseSettings, {"LOG_FORMAT": "json"}), "web")
    assert start_tracer("cxone-outbox-web") is NO_TRACER
    (off,) = check_lines(capsys.readouterr().err.splitlines())
    assert (off["action"], "none-such" in off["event"]) == ("traces_off", True)
