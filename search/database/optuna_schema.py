"""Optuna's tables: created at once, or of the version that the installed Optuna needs.

Optuna creates them by itself in several transactions and on two connections at a time, which fails
when processes do so together. Here it is one transaction, in the state that Optuna leaves.
"""

from importlib.util import find_spec
from pathlib import Path

import optuna
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.storages._rdb.models import SCHEMA_VERSION, BaseModel, VersionInfoModel
from sqlalchemy import Connection, insert, select

from search.errors import UserError


def prepare(connection: Connection, storage: str) -> None:
    """Create Optuna's tables if there are none, or a part of them.

    Raises:
        UserError: the database, called `storage`, has those of another version.
    """
    script = _migrations()
    context = MigrationContext.configure(connection)
    there, needed = context.get_current_revision(), script.get_current_head()
    if there is None:
        BaseModel.metadata.create_all(connection)
        if connection.scalar(select(VersionInfoModel.schema_version)) is None:
            versions = {"schema_version": SCHEMA_VERSION, "library_version": optuna.__version__}
            connection.execute(insert(VersionInfoModel).values(versions))
        context.stamp(script, "head")
    elif there != needed:
        raise UserError(
            f"--storage {storage}: its tables are of schema {there}, and this Optuna needs "
            f"{needed}; `optuna storage upgrade` upgrades older ones, or name another database"
        )


def _migrations() -> ScriptDirectory:
    package = find_spec("optuna.storages._rdb")
    assert package is not None, "the project requires Optuna"
    assert package.origin is not None, "it is a package of files"
    config = Config()
    config.set_main_option("script_location", str(Path(package.origin).parent / "alembic"))
    return ScriptDirectory.from_config(config)
