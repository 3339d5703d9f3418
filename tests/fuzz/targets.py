"""The targets by their names."""

from tests.fuzz.cxone import open_cxone
from tests.fuzz.inference import open_inference
from tests.fuzz.kafka import open_kafka
from tests.fuzz.oidc import open_oidc
from tests.fuzz.registry import open_registry
from tests.fuzz.target import OpenTarget
from tests.fuzz.webhook import open_webhook

TARGETS: dict[str, OpenTarget] = {
    "webhook": open_webhook,
    "registry": open_registry,
    "inference": open_inference,
    "cxone": open_cxone,
    "oidc": open_oidc,
    "kafka": open_kafka,
}
