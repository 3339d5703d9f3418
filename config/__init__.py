"""What every process shares and neither the door, the ledger nor the carrier owns: settings and logging."""
