"""``python -m deploy.grafana.dashboard``: write ``cxone-outbox.json``, the dashboard, from the queries below."""

import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("cxone-outbox.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, HEIGHT = 24, 7


class Panel(NamedTuple):
    """A panel of the dashboard.

    Attributes:
        title: what it shows.
        queries: legend to expression.
        unit: of Grafana.
        kind: of Grafana.
        width: of 24 columns.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Return the rate of a counter a second, added up over all processes."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}[$__rate_interval]))"


def relay_rate(metric: str, by: str = "", where: str = "") -> str:
    """Return the rate of a relay's counter, and 0 while no relay exports it: a gap would look like missing data."""
    return f"({rate(metric, by, where)} {without_relay('0', by)})"


def without_relay(value: str, by: str = "") -> str:
    """Return the end of a query, with the value that stands while no relay exports what the query asks for.

    Args:
        value: a number.
        by: labels of the query, which say that there is no relay.
    """
    instead = f"vector({value})"
    for label in filter(None, by.split(", ")):
        instead = f'label_replace({instead}, "{label}", "{"+Inf" if label == "le" else "no relay"}", "", "")'
    return f"or on() {instead}"


def stat(title: str, query: str, unit: str) -> Panel:
    """Return a panel with one number."""
    return Panel(title, {"": query}, unit, "stat", 6)


def heatmap(title: str, histogram: str, unit: str = "s") -> Panel:
    """Return a panel with the buckets of a histogram; unlike a quantile, it is defined when nothing happens."""
    return Panel(title, {"{{le}}": relay_rate(f"{histogram}_bucket", "le")}, unit, "heatmap")


def quantile(share: float, histogram: str, where: str = "") -> str:
    """Return a quantile of a histogram over all processes."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', 'le', where)})"


ROWS = "outbox_delivery_seconds_count"
IN_TIME, IN_TIME_ONLY = "outbox_delivery_seconds_bucket", '{le="5.0"}'
SHARE_IN_TIME = f"sum(increase({IN_TIME}{IN_TIME_ONLY}[30d])) / sum(increase({ROWS}[30d]))"
REQUESTS = "outbox_webhook_requests_total"
ACCEPTED = '{outcome=~"accepted|duplicate"}'
VALID = '{outcome!~"unauthorized|not_found|method_not_allowed"}'
ENRICHMENT = '{stage="enrichment"}'
LAST_COMMIT = "outbox_relay_last_commit_timestamp_seconds"
ACCEPTED_ONLY = '{outcome="accepted"}'

DASHBOARD: dict[str, list[Panel]] = {
    "Objectives": [
        stat("In Kafka within 5 s, 30 days", SHARE_IN_TIME, "percentunit"),
        stat("Budget left of 0.1 % late rows, 30 days", f"1 - (1 - {SHARE_IN_TIME}) / 0.001", "percentunit"),
        stat(
            "Accepted of valid requests, 30 days",
            f"sum(increase({REQUESTS}{ACCEPTED}[30d])) / sum(increase({REQUESTS}{VALID}[30d]))",
            "percentunit",
        ),
        stat("Alerts that fire", 'count(ALERTS{alertstate="firing"}) or vector(0)', "short"),
        Panel(
            "Rows to Kafka, by delivery time",
            {
                "within 5 s": relay_rate(IN_TIME, where=IN_TIME_ONLY),
                "later": f"{relay_rate(ROWS)} - {relay_rate(IN_TIME, where=IN_TIME_ONLY)}",
            },
            "ops",
            width=12,
        ),
        heatmap("From receipt to Kafka", "outbox_delivery_seconds")._replace(width=12),
    ],
    "Webhook": [
        Panel("Requests by outcome", {"{{outcome}}": rate(REQUESTS, "outcome")}, "reqps"),
        Panel("Requests by secret", {"{{secret}}": rate(REQUESTS, "secret")}, "reqps"),
        Panel(
            "Accepted requests",
            {
                "median": quantile(0.5, "outbox_webhook_request_seconds", ACCEPTED_ONLY),
                "99 %": quantile(0.99, "outbox_webhook_request_seconds", ACCEPTED_ONLY),
                "99 % of commits": quantile(0.99, "outbox_ingest_commit_seconds"),
            },
            "s",
        ),
        Panel(
            "Mistakes of senders",
            {
                "placeholders": rate("outbox_webhook_placeholders_total"),
                "labelled as form data": rate("outbox_webhook_form_labelled_total"),
                "closed: {{reason}}": rate("outbox_webhook_connections_closed_total", "reason"),
            },
            "reqps",
            width=24,
        ),
    ],
    "Backlog": [
        Panel(
            "Rows",
            {
                "{{state}}": "max by (state) (outbox_backlog_rows)",
                "{{state}} behind a parked row": 'sum by (state) (outbox_rows{state="waiting"})',
            },
        ),
        Panel("Oldest pending row", {"age": "max(outbox_backlog_oldest_age_seconds)"}, "s"),
        Panel(
            "Time since the backlog was counted", {"age": "time() - max(outbox_backlog_counted_timestamp_seconds)"}, "s"
        ),
    ],
    "Kafka transactions": [
        Panel(
            "Transactions",
            {
                "committed": relay_rate("cxone_kafka_transaction_commits_total"),
                "not known to be committed": relay_rate("cxone_kafka_transaction_aborts_total"),
            },
            "ops",
        ),
        heatmap("Duration", "outbox_transaction_seconds"),
        heatmap("Rows in a transaction", "outbox_transaction_rows", "short"),
        Panel("Shards taken over", {"{{verdict}}": relay_rate("outbox_recoveries_total", "verdict")}, "ops", width=12),
        Panel(
            "Attempts repeated",
            {"{{stage}}: {{reason}}": relay_rate("outbox_retries_total", "stage, reason")},
            "ops",
            width=12,
        ),
    ],
    "Inference": [
        Panel(
            "Calls",
            {
                "{{outcome}}": relay_rate("outbox_inference_calls_total", "outcome"),
                "circuit open": "max(outbox_inference_circuit_open)",
            },
            "ops",
        ),
        heatmap("Duration of a call", "outbox_inference_call_seconds"),
        Panel(
            "Calls to make",
            {
                "{{state}}": "max by (state) (outbox_calls)",
                "oldest due call, s": 'max(outbox_oldest_age_seconds{stage="inference"})',
            },
        ),
    ],
    "Enrichment and OAuth": [
        Panel(
            "Token requests", {"{{outcome}}": relay_rate("outbox_token_refreshes_total", "outcome")}, "reqps", width=12
        ),
        Panel(
            "Interactions",
            {
                "not requested": relay_rate("outbox_enrichment_not_asked_total"),
                "repeated": relay_rate("outbox_retries_total", where=ENRICHMENT),
            },
            "ops",
            width=12,
        ),
    ],
    "Processes": [
        Panel(
            "Shards",
            {
                "{{state}}": "max by (state) (outbox_shards)",
                "of {{instance}}": "max by (instance) (outbox_shards_owned)",
            },
        ),
        Panel(
            "Degraded",
            {
                "{{instance}}: {{subject}}": "max by (instance, subject) (outbox_degraded) "
                f"{without_relay('1', 'instance, subject')}"
            },
        ),
        Panel(
            "Time since the last commit",
            {
                "{{instance}}": f"time() - (max by (instance) ({LAST_COMMIT}) > 0)",
                "any relay": f"time() - max(max_over_time({LAST_COMMIT}[1d]) > 0)",
            },
            "s",
        ),
        Panel("CPU", {"{{job}} {{instance}}": "rate(process_cpu_seconds_total[$__rate_interval])"}, "percentunit"),
        Panel("Memory", {"{{job}} {{instance}}": "process_resident_memory_bytes"}, "bytes"),
        Panel(
            "Open files, of those allowed",
            {"{{job}} {{instance}}": "process_open_fds / process_max_fds"},
            "percentunit",
        ),
    ],
    "Database and operators": [
        heatmap("Commit of interactions", "outbox_ingest_commit_seconds")._replace(width=6),
        Panel(
            "Rows pruned, and free disk (SQLite)",
            {"rows a second": relay_rate("outbox_pruned_rows_total"), "free, GB": "min(outbox_disk_free_bytes) / 1e9"},
            width=6,
        ),
        Panel(
            "Clocks ahead of the database's",
            {"{{job}} {{instance}}": "max by (job, instance) (outbox_clock_offset_seconds)"},
            "s",
            width=6,
        ),
        Panel(
            "Changes by operators",
            {
                "{{verb}}": "max by (verb) (max_over_time(outbox_operator_changes_total[1d]))",
                "rows: {{verb}}": "max by (verb) (max_over_time(outbox_operator_rows_total[1d]))",
            },
            width=6,
        ),
    ],
}
ANNOTATIONS = {
    "Operators": ("max by (verb) (increase(outbox_operator_changes_total[$__rate_interval])) > 0", "{{verb}}", "blue"),
    "Alerts": ('max by (alertname, severity) (ALERTS{alertstate="firing"})', "{{alertname}}", "red"),
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    return {
        "title": "CXone outbox",
        "uid": "cxone-outbox",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "annotations": {"list": [_annotation(name, *given) for name, given in ANNOTATIONS.items()]},
        "panels": _panels(),
    }


def _panels() -> list[dict[str, Any]]:
    """Place the panels from left to right, a heading above each group."""
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, group in DASHBOARD.items():
        panels.append({"type": "row", "title": heading, "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        x, y = 0, y + 1
        for panel in group:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            panels.append(_panel(panel, {"x": x, "y": y, "w": panel.width, "h": HEIGHT}))
            x += panel.width
        y += HEIGHT
    return [{"id": number, **panel} for number, panel in enumerate(panels, start=1)]


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    form = {"format": "heatmap"} if panel.kind == "heatmap" else {}
    targets = [
        {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend, **form}
        for number, (legend, query) in enumerate(panel.queries.items())
    ]
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.unit == "percentunit" and panel.kind == "stat":
        defaults |= {"decimals": 3, "max": 1}
    options = {"calculate": False, "yAxis": {"unit": panel.unit}} if panel.kind == "heatmap" else {}
    return {
        "type": panel.kind,
        "title": panel.title,
        "gridPos": place,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def _annotation(name: str, query: str, title: str, color: str) -> dict[str, Any]:
    return {"name": name, "enable": True, "datasource": SOURCE, "expr": query, "titleFormat": title, "iconColor": color}


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n")
