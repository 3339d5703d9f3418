"""The relay process: its services, threads, shards, and HTTP port."""
