"""Alembic's entry: runs the migrations on the connection that `upgrade` hands over, or prints SQL (`alembic --sql`)."""

from alembic import context

from posttrain.registry.tables import Table

if context.is_offline_mode():
    context.configure(dialect_name="sqlite", target_metadata=Table.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
    context.run_migrations()
