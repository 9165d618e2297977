"""The database's history: one alembic line, shipped with the package and run by the program itself.

`upgrade` is called whenever a store is opened. A database of a newer version of this package is refused, never changed.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from posttrain.registry.errors import SchemaError


def config() -> Config:
    """Alembic's configuration, without a file."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return made


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Brings the schema up to this code's, in one transaction; does nothing if it is there.

    Raises:
        SchemaError: the database was written by a newer version of this package.
    """
    options = config()
    with engine.begin() as connection:
        if _position(connection, options) == "head":
            return
        options.attributes["connection"] = connection
        command.upgrade(options, revision)


def check(engine: Engine) -> None:
    """Raises SchemaError unless the schema is this code's; changes nothing."""
    with engine.connect() as connection:
        if _position(connection, config()) != "head":
            raise SchemaError(
                "the database has an older schema than this version of posttrain",
                "start the server once: it brings the schema up to date",
            )


def _position(connection: Connection, options: Config) -> str:
    script = ScriptDirectory.from_config(options)
    head = script.get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    known = {item.revision for item in script.walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(f"the database has schema {current}; this version of posttrain knows up to {head}")
    return "head" if current == head else "behind"
