"""Which code may go on with which schema: two releases on one database."""

import re
import shutil
from textwrap import dedent

import pytest
from sqlalchemy import inspect

from database import schema
from database.engine import background_transaction, open_engine
from database.schema import SchemaTooNew, floor, migrate_to_head, raise_floor
from tests.databases import database_of, declared_floor

FIRST_WITH_A_FLOOR = "0005"
FILES = [path for path in (schema.MIGRATIONS / "versions").glob("*.py") if path.name >= FIRST_WITH_A_FLOOR]
NEXT = f"{int(schema.HEAD) + 1:04d}"


@pytest.fixture
def newer_release(monkeypatch, tmp_path):
    """Runs a block as the code of the next release would, which has one more migration."""

    def run(work, declares=f'oldest = "{schema.HEAD}"'):
        with monkeypatch.context() as patched:
            migrations = tmp_path / "migrations"
            shutil.copytree(schema.MIGRATIONS, migrations, dirs_exist_ok=True)
            (migrations / "versions" / f"{NEXT}_next.py").write_text(
                dedent(f'''
                    import sqlalchemy as sa
                    from alembic import op

                    revision, down_revision, branch_labels, depends_on = "{NEXT}", "{schema.HEAD}", None, None
                    {declares}


                    def upgrade():
                        op.add_column("tokens", sa.Column("more", sa.Integer))
                ''')
            )
            patched.setattr(schema, "MIGRATIONS", migrations)
            patched.setattr(schema, "HEAD", NEXT)
            return work()

    return run


# What a migration has to say and to leave alone


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_migration_declares_the_oldest_revision_whose_code_may_go_on(file):
    declared = re.search(r'^oldest = "(\d{4})"$', file.read_text(), re.MULTILINE)

    assert declared, f'{file.name}: say in a line of its own, for example: oldest = "{FIRST_WITH_A_FLOOR}"'
    assert "0003" <= declared[1] <= file.name[:4]


def test_a_migration_that_does_not_declare_it_is_not_made(database, newer_release, tmp_path):
    with pytest.raises(AttributeError, match="oldest"):
        newer_release(lambda: migrate_to_head(database, tmp_path), declares="")

    assert schema.version(database) == schema.HEAD


def test_the_database_says_what_its_migrations_declared(database):
    with database.connect() as connection:
        assert floor(connection) == declared_floor() == max(declared_floor(file) for file in FILES)


def test_code_of_the_oldest_revision_finds_its_columns_and_may_leave_out_the_new_ones(tmp_path):
    engine = open_engine(database_of(tmp_path, empty=True))
    schema.upgrade(engine, declared_floor())
    old = columns(engine)
    schema.upgrade(engine)
    new = columns(engine)
    engine.dispose()

    assert old.keys() <= new.keys()
    assert [name for name, column in old.items() if str(column["type"]) != str(new[name]["type"])] == []
    added = [name for name in new.keys() - old.keys() if name[0] in {table for table, _ in old}]
    assert [name for name in added if not new[name]["nullable"] and new[name]["default"] is None] == []


def columns(engine):
    """Every column, by its table and name."""
    tables = inspect(engine)
    return {
        (table, column["name"]): column for table in tables.get_table_names() for column in tables.get_columns(table)
    }


# What code does that finds a newer schema


def test_a_schema_that_the_next_release_made_is_gone_on_with(database, newer_release, tmp_path):
    newer_release(lambda: migrate_to_head(database, tmp_path))

    migrate_to_head(database, tmp_path)

    assert schema.version(database) == NEXT
    assert "more" in {column["name"] for column in inspect(database).get_columns("tokens")}


def test_a_schema_that_this_code_may_not_go_on_with_is_refused_in_one_line(database, newer_release, tmp_path):
    newer_release(lambda: migrate_to_head(database, tmp_path), declares=f'oldest = "{NEXT}"')

    with pytest.raises(
        SchemaTooNew, match=rf"knows {schema.HEAD}: upgrade this node to .* {NEXT} or later$"
    ) as caught:
        migrate_to_head(database, tmp_path)

    assert "\n" not in str(caught.value)


def test_a_feature_that_older_code_would_get_wrong_ends_its_going_on(database, newer_release, tmp_path):
    newer_release(lambda: migrate_to_head(database, tmp_path))
    migrate_to_head(database, tmp_path)
    with background_transaction(database) as connection:
        raise_floor(connection, NEXT)

    with pytest.raises(SchemaTooNew):
        migrate_to_head(database, tmp_path)


def test_the_floor_only_rises(database):
    for revision in (NEXT, "0001"):
        with background_transaction(database) as connection:
            raise_floor(connection, revision)

    with database.connect() as connection:
        assert floor(connection) == NEXT


def test_a_floor_that_is_not_committed_is_none(database):
    class Failed(Exception):
        pass

    def fail():
        with background_transaction(database) as connection:
            raise_floor(connection, NEXT)
            raise Failed

    with pytest.raises(Failed):
        fail()

    with database.connect() as connection:
        assert floor(connection) == declared_floor()
