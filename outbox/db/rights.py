"""The privileges of a process's database role, compared with those that ``roles.sql`` grants."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from outbox.db import transactions
from outbox.errors import NotAllowedError, OutboxError
from outbox.sql.statement import statement

WEB, RELAY, OPERATOR, CONSOLE = "web", "relay", "operator", "console_act"
"""Roles in ``roles.sql``, without their prefix."""
_PREFIX = "cxone_"
_GRANT = re.compile(r"GRANT\s+(?P<privileges>[^;]+?)\s+ON\s+(?P<object>[^;]+?)\s+TO\s+(?P<role>\w+);")
_PRIVILEGE = re.compile(r"(?P<name>[A-Z]+)\s*(?:\((?P<columns>[^)]*)\))?")


class Right(NamedTuple):
    """A privilege on a table, on one of its columns, or on a schema."""

    privilege: str
    object: str
    """A table, or ``SCHEMA name``."""
    column: str
    """Empty: the whole table."""


def format_rights(rights: Iterable[Right]) -> str:
    """Format rights as ``GRANT`` names them, with the columns of a table together."""
    columns: dict[tuple[str, str], list[str]] = {}
    for privilege, of, column in rights:
        columns.setdefault((privilege, of), []).extend([column] if column else [])
    listed = ((f" ({', '.join(names)})" if names else "", *key) for key, names in columns.items())
    return ", ".join(f"{privilege}{names} ON {of}" for names, privilege, of in listed)


_MISSING = statement("""
    SELECT r.privilege, r.object, r.col, current_user AS role
    FROM unnest(CAST(:privileges AS text[]), CAST(:objects AS text[]), CAST(:columns AS text[]))
         AS r(privilege, object, col)
    WHERE NOT CASE
        WHEN r.object LIKE 'SCHEMA %' THEN
            to_regclass('outbox_identity') IS NOT NULL OR has_schema_privilege(substr(r.object, 8), r.privilege)
        WHEN to_regclass(r.object) IS NULL THEN true
        WHEN r.col = '' THEN has_table_privilege(to_regclass(r.object), r.privilege)
        ELSE has_column_privilege(to_regclass(r.object), r.col, r.privilege)
    END
""")
"""Of these rights, those that the current role lacks; a column of a missing table counts as lacking. A role that sees a
table can use its schema."""


@cache
def required_by(role: str) -> tuple[Right, ...]:
    """Return the rights that ``roles.sql`` grants to a role."""
    text = re.sub(r"--.*", "", files("outbox").joinpath("roles.sql").read_text(encoding="utf-8"))
    return tuple(
        Right(privilege["name"], grant["object"], column.strip())
        for grant in _GRANT.finditer(text)
        if grant["role"] == f"{_PREFIX}{role}"
        for privilege in _PRIVILEGE.finditer(grant["privileges"])
        for column in (privilege["columns"] or "").split(",")
    )


def require(connection: Connection, role: str) -> None:
    """Return if the current database role has the rights of a role; always on SQLite.

    Raises:
        NotAllowedError: names each missing right.
    """
    if connection.dialect.name != "postgresql":
        return
    privileges, objects, columns = map(list, zip(*required_by(role), strict=True))
    values = {"privileges": privileges, "objects": objects, "columns": columns}
    if found := connection.execute(_MISSING.on(connection), values).all():
        missing = format_rights(Right(*row[:3]) for row in found)
        raise NotAllowedError(
            f"permission denied: the database role {found[0].role} lacks {missing}: grant the role what "
            f"outbox/roles.sql lists for {_PREFIX}{role}"
        )


def name_missing(engine: Engine, role: str, error: OutboxError) -> OutboxError:
    """Return the error, or one that names the missing rights where the database only named a table."""
    if isinstance(error, NotAllowedError):
        try:
            with transactions.read(engine) as connection:
                require(connection, role)
        except OutboxError as detailed:
            return detailed
    return error
