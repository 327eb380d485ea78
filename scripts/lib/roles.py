"""The role that the service uses: it owns the database, and is not a superuser."""

import os
import secrets
from pathlib import Path

import psycopg2

from lib.binaries import PostgresError

SUPERUSER, SERVICE, DATABASE = "postgres", "service", "service"
FORMER = "items"
"""The superuser and the database in a data folder of an earlier release."""
# What the superuser owns in a data folder of an earlier release, whose service was the superuser; PostgreSQL itself
# can give the service only what belongs to other roles (REASSIGN OWNED). 10 is the role that `initdb` made.
GIVE = f"""
DO $$
DECLARE command text;
BEGIN
    FOR command IN
        WITH theirs AS (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
             -- What belongs to an extension, to a type, or to a column has its owner.
             parts AS (SELECT classid, objid FROM pg_depend
                         LEFT JOIN pg_class ON classid = 'pg_class'::regclass AND oid = objid
                        WHERE deptype IN ('e', 'i') OR deptype = 'a' AND relkind = 'S')
        SELECT format('ALTER SCHEMA %I OWNER TO {SERVICE}', nspname)
          FROM pg_namespace JOIN theirs USING (oid) WHERE nspowner = 10
        UNION ALL
        SELECT format('ALTER TABLE %s OWNER TO {SERVICE}', oid::regclass) FROM pg_class
         WHERE relowner = 10 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relnamespace IN (TABLE theirs)
           AND ('pg_class'::regclass, oid) NOT IN (TABLE parts)
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO {SERVICE}', oid::regprocedure) FROM pg_proc
         WHERE proowner = 10 AND pronamespace IN (TABLE theirs) AND ('pg_proc'::regclass, oid) NOT IN (TABLE parts)
        UNION ALL
        SELECT format('ALTER TYPE %s OWNER TO {SERVICE}', oid::regtype) FROM pg_type
         WHERE typowner = 10 AND typtype IN ('d', 'e', 'r') AND typnamespace IN (TABLE theirs)
           AND ('pg_type'::regclass, oid) NOT IN (TABLE parts)
    LOOP
        EXECUTE command;
    END LOOP;
END $$
"""  # noqa: S608 - a constant


def url(role: str, password: Path, port: int, database: str) -> str:
    """Return the URL of a database, as one of the roles."""
    return f"postgresql://{role}:{password.read_text()}@127.0.0.1:{port}/{database}"


def write_password(file: Path) -> None:
    """Write a new password, which only the owner of the folder can read."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    owner = file.parent.stat()
    os.chown(file, owner.st_uid, owner.st_gid)
    file.write_text(secrets.token_urlsafe(24))


def make_service(superuser_url: str, password: Path) -> None:
    """Make the service's role, unless its password says that it is there; give it the database.

    Raises
    ------
    PostgresError
        The server refuses.
    """
    if password.exists():
        return
    new = password.with_suffix(".new")
    write_password(new)
    try:
        connection = psycopg2.connect(superuser_url, connect_timeout=10)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (SERVICE,))
                verb = "ALTER" if cursor.rowcount else "CREATE"
                cursor.execute(f"{verb} ROLE {SERVICE} LOGIN PASSWORD %s", (new.read_text(),))
                database = connection.info.dbname
                cursor.execute(f"ALTER DATABASE {database} OWNER TO {SERVICE}")
                cursor.execute(GIVE)
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise PostgresError(f"PostgreSQL has no role for the service: {str(error).splitlines()[0]}") from error
    new.rename(password)
