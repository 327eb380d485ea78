-- Distributes the tables over the nodes of a Citus cluster. Run it on the coordinator, after the first migration:
--
--     psql "$DATABASE_URL" --file deploy/citus/distribute.sql
--
-- Existing rows are moved. What this means for the service is in docs/deploy.md.

-- Citus calls every trigger unsafe. The one that sets a changed row's version reads nothing but the row itself, so it is
-- correct on a shard. Later migrations of the table need the setting, too.
SET citus.enable_unsafe_triggers = on;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET citus.enable_unsafe_triggers = on', current_database()); END $$;

-- items: begin
SELECT create_distributed_table('items', 'id');
-- items: end

-- `idempotency_keys` stays a local table of the coordinator: a reference table deadlocks under concurrent creates.
SELECT citus_add_local_table_to_metadata('idempotency_keys');
