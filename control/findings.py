"""What an operator should know of the stored projects when a node starts: keys that do not open, or are not safe."""

from __future__ import annotations

from sqlalchemy import Engine, orm, select

from control import keys
from llmproxy.destinations import require_private_if_plain
from llmproxy.keyring import KeyRing
from models import Project

MOST_NAMED = 10


def findings(engine: Engine, keyring: KeyRing) -> list[str]:
    """A line for each thing that is not in order. May look names up. Raises `database.errors`."""
    with orm.Session(engine) as session:
        seals = keys.seals(session, keyring)
        plain = select(Project.name, Project.base_url).where(Project.base_url.startswith("http://")).limit(MOST_NAMED)
        unencrypted = [(name, base_url or "") for name, base_url in session.execute(plain)]
    return [*_of_seals(seals), *(line for name, base_url in unencrypted for line in _of_plain(name, base_url))]


def _of_seals(seals: keys.Seals) -> list[str]:
    lines = []
    if seals.shut:
        which = (
            f"none of the {seals.keys}" if seals.shut == seals.keys else f"all but {seals.shut} of the {seals.keys}"
        )
        lines.append(
            f"ENCRYPTION_KEY opens {which} stored upstream keys, and calls of the others' projects are refused:"
            " it is another database's, or lacks an older key after a comma"
        )
    if seals.old_form or seals.older_key:
        lines.append(
            f"{seals.old_form} upstream keys are not bound to their host yet, {seals.older_key} are sealed under an"
            " older encryption key: run `flask keys rotate` when every node runs this version"
        )
    return lines


def _of_plain(name: str, base_url: str) -> list[str]:
    try:
        require_private_if_plain(base_url)
    except ValueError:
        return [f"the base_url of project {name!r} is not encrypted: its key and prompts travel in the clear"]
    return []
