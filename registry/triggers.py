"""What the database itself refuses, whoever asks: SQLite triggers.

They guard against a mistake in this package or in a script that somebody runs on the file. Who owns the file can also
drop a trigger; that shows in `verify.verify_home`, which checks digests, the audit chain and these triggers too.

Migrations carry their own frozen copy; a test compares the migrated database with `TRIGGERS` (name -> statement).
"""

from __future__ import annotations

from sqlalchemy import Table as SqlTable
from sqlalchemy import UniqueConstraint

from posttrain.registry.tables import Table

INSERT_ONLY = (
    "job_events",
    "models",
    "model_versions",
    "version_files",
    "lineage",
    "alias_moves",
    "suites",
    "eval_runs",
    "policies",
    "gate_runs",
    "shard_looks",
    "promotions",
    "audit",
    "requests",
)
NEVER_DELETED = ("jobs", "attempts", "chains", "dataset_versions", "aliases")

# table, what is wrong with a new state of a row, and the sentence
UPDATES = {
    "dataset_versions_sealed": ("dataset_versions", "OLD.sealed", "a sealed dataset version is immutable"),
    "dataset_versions_identity": (
        "dataset_versions",
        "(NEW.id, NEW.project, NEW.name, NEW.number) IS NOT (OLD.id, OLD.project, OLD.name, OLD.number)"
        " OR NOT NEW.sealed AND (NEW.sha256, NEW.num_bytes) IS NOT (OLD.sha256, OLD.num_bytes)",
        "a dataset version keeps its name, and its bytes until it is sealed",
    ),
    "jobs_identity": (
        "jobs",
        "(NEW.seq, NEW.id, NEW.project, NEW.kind, NEW.spec_json, NEW.spec_sha256, NEW.parent_job)"
        " IS NOT (OLD.seq, OLD.id, OLD.project, OLD.kind, OLD.spec_json, OLD.spec_sha256, OLD.parent_job)",
        "a job keeps its identity and spec",
    ),
    "jobs_fencing": (
        "jobs",
        "NEW.attempt < OLD.attempt OR NEW.version < OLD.version"
        " OR (NEW.version = OLD.version AND (NEW.state <> OLD.state OR NEW.attempt <> OLD.attempt))",
        "a state change counts the version up",
    ),
}

_FOLLOWS = (
    "NOT EXISTS (SELECT 1 FROM alias_moves m WHERE m.id = NEW.move AND m.project = NEW.project"
    " AND m.model = NEW.model AND m.alias = NEW.alias AND m.to_version = NEW.version)"
)
_IDENTITY = "(NEW.project, NEW.model, NEW.alias) IS NOT (OLD.project, OLD.model, OLD.alias)"
_PROMOTED = (
    "NEW.kind = 'promotion' AND EXISTS (SELECT 1 FROM promotions p JOIN gate_runs g ON g.id = p.gate_run"
    " WHERE p.id = NEW.promotion AND p.outcome = 'APPLIED' AND p.project = NEW.project AND p.model = NEW.model"
    " AND p.alias = NEW.alias AND p.version = NEW.to_version AND p.from_version IS NEW.from_version"
    " AND g.verdict = 'PASS' AND g.version = p.version AND g.version_digest = p.version_digest AND g.alias = p.alias)"
)
_ROLLED_BACK = (
    "NEW.kind = 'rollback' AND NEW.promotion IS NULL AND EXISTS (SELECT 1 FROM alias_moves m"
    " WHERE m.project = NEW.project AND m.model = NEW.model AND m.alias = NEW.alias AND m.to_version = NEW.to_version)"
)
_OWN_VERSION = (
    "NOT EXISTS (SELECT 1 FROM model_versions v WHERE v.id = NEW.to_version AND v.project = NEW.project"
    " AND v.model = NEW.model)"
)
INSERTS = {
    "alias_moves_evidence": (
        "alias_moves",
        f"NOT ({_PROMOTED} OR {_ROLLED_BACK})",
        "an alias moves only by an applied promotion or back to where it was",
    ),
    "alias_moves_version": ("alias_moves", _OWN_VERSION, "an alias names a version of its own model"),
    "aliases_insert": ("aliases", _FOLLOWS, "an alias follows a recorded move"),
}
UPDATES["aliases_update"] = (
    "aliases",
    f"NEW.move <= OLD.move OR {_IDENTITY} OR {_FOLLOWS}",
    "an alias follows a recorded move",
)


def _refuse(name: str, event: str, table: str, message: str, when: str = "") -> str:
    condition = f" WHEN {when}" if when else ""
    return f"CREATE TRIGGER {name} BEFORE {event} ON {table}{condition} BEGIN SELECT RAISE(ABORT, '{message}'); END"


def _taken(table: SqlTable) -> str:
    """True for a row whose key is there: `INSERT OR REPLACE` deletes the old one without asking any DELETE trigger."""
    keys = [list(table.primary_key.columns)]
    keys += [list(item.columns) for item in table.constraints if isinstance(item, UniqueConstraint)]
    names = sorted([column.name for column in key] for key in keys)
    tests = [" AND ".join(f"t.{name} = NEW.{name}" for name in key) for key in names]
    return " OR ".join(f"EXISTS (SELECT 1 FROM {table.name} t WHERE {test})" for test in tests)


def _all() -> dict[str, str]:
    made = {}
    for name in INSERT_ONLY:
        made[f"{name}_no_update"] = _refuse(f"{name}_no_update", "UPDATE", name, f"{name} is insert-only")
    for name in (*INSERT_ONLY, *NEVER_DELETED):
        taken = _taken(Table.metadata.tables[name])
        made[f"{name}_no_delete"] = _refuse(f"{name}_no_delete", "DELETE", name, f"{name} keeps its rows")
        made[f"{name}_no_replace"] = _refuse(f"{name}_no_replace", "INSERT", name, f"{name} has this key", taken)
    for event, rules in (("UPDATE", UPDATES), ("INSERT", INSERTS)):
        for rule, (table, when, message) in rules.items():
            made[rule] = _refuse(rule, event, table, message, when)
    return made


TRIGGERS: dict[str, str] = _all()
