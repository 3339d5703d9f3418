"""What pages share with the command line."""

from relay.cli.status_table import shard_fields
from relay.process.row_verification import KafkaRecord, look_up_record

__all__ = ["KafkaRecord", "look_up_record", "shard_fields"]
