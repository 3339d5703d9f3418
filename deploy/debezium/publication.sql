-- What Debezium reads of the outbox: inserted rows, without bodies. See docs/change-data-capture.md.
--
-- Run this once as the owner of the tables (cxone_migrate), on PostgreSQL 15 or later:
--   psql -h db.example -U cxone_migrate -d outbox -v ON_ERROR_STOP=1 -f deploy/debezium/publication.sql
--
-- A row is inserted once, when the webhook accepts it. Later changes of it, and its removal, are not published, so the
-- table needs no REPLICA IDENTITY. Replays are rows of the relay's: they stay pending until it runs again.
CREATE PUBLICATION cxone_outbox
    FOR TABLE outbox (id, interaction_id, channel, timestamp_ms, customer_email, agent_id, traceparent, received_at)
    WHERE (replay_of IS NULL)
    WITH (publish = 'insert');
