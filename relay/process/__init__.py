"""The relay process: services, threads, shard assignment, and the HTTP port."""
