-- Distributes the tables over the nodes of a Citus cluster. Run it on the coordinator, after the first migration:
--
--     psql "$DATABASE_URL" --file deploy/citus/distribute.sql
--
-- Rows that are there already are moved. What this means for the service is in docs/deploy.md.

SELECT create_distributed_table('items', 'id');

-- `idempotency_keys` stays a local table of the coordinator: a reference table deadlocks under concurrent creates.
SELECT citus_add_local_table_to_metadata('idempotency_keys');
