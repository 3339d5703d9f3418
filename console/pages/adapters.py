"""What pages share with the command line."""

from relay.cli.options import filter_arguments
from relay.cli.output import format_actor, format_age, format_command, format_shards, plural
from relay.cli.status_table import shard_fields
from relay.cli.times import EXPECTED as EXPECTED_TIME
from relay.cli.times import parse_time
from relay.process.row_verification import KafkaRecord, look_up_record

__all__ = [
    "EXPECTED_TIME",
    "KafkaRecord",
    "filter_arguments",
    "format_actor",
    "format_age",
    "format_command",
    "format_shards",
    "look_up_record",
    "parse_time",
    "plural",
    "shard_fields",
]
