-- The privileges that each process needs on PostgreSQL, and no more. See docs/postgresql-roles.md.
--
-- Run this as the owner of the tables (cxone_migrate) after each `relay migrate`; it can be run again at any time:
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f outbox/roles.sql
--
-- The processes read this file too: `relay check`, the log of the process, and the error of an operator's command name
-- each missing privilege. UPDATE (id) only serves to lock rows.

-- web: stores interactions; reads no body. It counts the backlog, but sees no customer.
GRANT USAGE ON SCHEMA public TO cxone_web;
GRANT SELECT ON alembic_version TO cxone_web;
GRANT SELECT, UPDATE (id) ON outbox_identity TO cxone_web;
GRANT INSERT (nonce, key, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, payload,
              payload_digest, traceparent, received_at) ON outbox TO cxone_web;
GRANT SELECT (id, nonce, key, interaction_hash, interaction_id, payload_digest, received_at) ON outbox TO cxone_web;
GRANT SELECT (shard, id), INSERT ON outbox_pending TO cxone_web;
GRANT SELECT (state) ON outbox_parked TO cxone_web;
GRANT SELECT ON outbox_shard TO cxone_web;
GRANT SELECT (shard, until) ON outbox_pause TO cxone_web;
GRANT SELECT (row_id, state, due_at) ON outbox_inference_call TO cxone_web;

-- relay: sends, marks, parks, enriches and prunes rows; reads no body.
GRANT USAGE ON SCHEMA public TO cxone_relay;
GRANT SELECT ON alembic_version TO cxone_relay;
GRANT SELECT, UPDATE (id, topic, progress_topic, transactional_id_prefix, cluster_id) ON outbox_identity TO cxone_relay;
GRANT SELECT (id, nonce, interaction_hash, interaction_id, channel, timestamp_ms, customer_email, agent_id, traceparent,
              replay_of, topic, received_at, enriched_at) ON outbox TO cxone_relay;
GRANT UPDATE (customer_email, agent_id, enriched_at), DELETE ON outbox TO cxone_relay;
GRANT SELECT, DELETE ON outbox_pending TO cxone_relay;
GRANT SELECT, INSERT, UPDATE (id), DELETE ON outbox_sent TO cxone_relay;
GRANT SELECT, INSERT, UPDATE (id), DELETE ON outbox_parked TO cxone_relay;
GRANT SELECT ON outbox_rows TO cxone_relay;
GRANT SELECT, UPDATE ON outbox_shard TO cxone_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_relay TO cxone_relay;
GRANT SELECT ON outbox_pause TO cxone_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_inference_call TO cxone_relay;
GRANT SELECT (id, verb, row_ids, hash) ON outbox_audit TO cxone_relay;

-- operator: runs every command except migrate. It adds audit entries, but cannot change or remove them.
GRANT USAGE ON SCHEMA public TO cxone_operator;
GRANT SELECT ON alembic_version TO cxone_operator;
GRANT SELECT, UPDATE ON outbox_identity TO cxone_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO cxone_operator;
GRANT SELECT, INSERT, UPDATE (shard), DELETE ON outbox_pending TO cxone_operator;
GRANT SELECT, INSERT, UPDATE (id), DELETE ON outbox_sent TO cxone_operator;
GRANT SELECT, UPDATE (shard, state, changed_at), DELETE ON outbox_parked TO cxone_operator;
GRANT SELECT ON outbox_rows TO cxone_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_shard TO cxone_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_relay TO cxone_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_pause TO cxone_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_inference_call TO cxone_operator;
GRANT SELECT, INSERT, UPDATE ON outbox_verification TO cxone_operator;
GRANT SELECT, INSERT ON outbox_audit TO cxone_operator;
GRANT SELECT, INSERT ON outbox_audit_row TO cxone_operator;

-- console_read: reads everything except bodies and customers.
GRANT USAGE ON SCHEMA public TO cxone_console_read;
GRANT SELECT ON alembic_version TO cxone_console_read;
GRANT SELECT ON outbox_identity TO cxone_console_read;
GRANT SELECT (id, nonce, key, interaction_hash, interaction_id, channel, timestamp_ms, replay_of, replay_plan, topic,
              received_at, enriched_at) ON outbox TO cxone_console_read;
GRANT SELECT ON outbox_pending TO cxone_console_read;
GRANT SELECT ON outbox_sent TO cxone_console_read;
GRANT SELECT ON outbox_parked TO cxone_console_read;
GRANT SELECT ON outbox_rows TO cxone_console_read;
GRANT SELECT ON outbox_shard TO cxone_console_read;
GRANT SELECT ON outbox_relay TO cxone_console_read;
GRANT SELECT ON outbox_pause TO cxone_console_read;
GRANT SELECT ON outbox_inference_call TO cxone_console_read;
GRANT SELECT ON outbox_verification TO cxone_console_read;
GRANT SELECT ON outbox_audit TO cxone_console_read;
GRANT SELECT ON outbox_audit_row TO cxone_console_read;

-- console_act: retries, discards, replays, reveals, erases, prunes and pauses; takes no shard.
GRANT USAGE ON SCHEMA public TO cxone_console_act;
GRANT SELECT ON alembic_version TO cxone_console_act;
GRANT SELECT, UPDATE (id) ON outbox_identity TO cxone_console_act;
GRANT SELECT, INSERT, DELETE ON outbox TO cxone_console_act;
GRANT UPDATE (customer_email, payload, payload_digest, enriched_at) ON outbox TO cxone_console_act;
GRANT SELECT, INSERT ON outbox_pending TO cxone_console_act;
GRANT SELECT, UPDATE (id), DELETE ON outbox_sent TO cxone_console_act;
GRANT SELECT, UPDATE (state, changed_at), DELETE ON outbox_parked TO cxone_console_act;
GRANT SELECT ON outbox_rows TO cxone_console_act;
GRANT SELECT, UPDATE (condition) ON outbox_shard TO cxone_console_act;
GRANT SELECT ON outbox_relay TO cxone_console_act;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_pause TO cxone_console_act;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_inference_call TO cxone_console_act;
GRANT SELECT ON outbox_verification TO cxone_console_act;
GRANT SELECT, INSERT ON outbox_audit TO cxone_console_act;
GRANT SELECT, INSERT ON outbox_audit_row TO cxone_console_act;
