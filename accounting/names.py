"""
The names that models are counted under. They come from upstreams, and an upstream that makes them up may not fill the
tables with them: all projects together have MAX_MODELS, and no project adds more than its share of them.
"""

from __future__ import annotations

import time

from sqlalchemy import Engine, select

from accounting.views import PROJECT_DAYS
from models import usage_keys

MAX_MODELS = 1000
MAX_MODELS_OF_ONE_PROJECT = MAX_MODELS // 10
OTHER_MODELS = "(other)"
# While there is no room for more, the tables are asked this often whether some has come back.
_LOOK_S = 10.0


class ModelNames:
    """What the tables know, and what is about to be added to them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_project: dict[str, set[str]] = {}
        self._all: set[str] = set()
        self._looked_at = -_LOOK_S
        self._may_look = True

    def begin(self) -> None:
        """A batch begins: the first name in it that is not known is looked up, for others add names too."""
        self._may_look = True

    def name(self, project_id: str, model: str) -> str:
        """The model's own name, or OTHER_MODELS for one too many."""
        own = self._by_project.get(project_id)
        if not model or (own is not None and model in own):
            return model
        return self._new_name(project_id, model)

    def _new_name(self, project_id: str, model: str) -> str:
        if self._may_look and (self._has_room(project_id) or time.monotonic() - self._looked_at > _LOOK_S):
            self._look()
        if model not in self._all and not self._has_room(project_id):
            return OTHER_MODELS
        self._by_project.setdefault(project_id, set()).add(model)
        self._all.add(model)
        return model

    def _has_room(self, project_id: str) -> bool:
        own = self._by_project.get(project_id, set())
        return len(self._all) < MAX_MODELS and len(own) < MAX_MODELS_OF_ONE_PROJECT

    def _look(self) -> None:
        self._may_look, self._looked_at = False, time.monotonic()
        named = (usage_keys.c.view == PROJECT_DAYS.id) & usage_keys.c.model.not_in(["", OTHER_MODELS])
        with self._engine.connect() as connection:
            found = connection.execute(select(usage_keys.c.project_id, usage_keys.c.model).where(named).distinct())
            self._by_project = {}
            for project_id, model in found:
                self._by_project.setdefault(project_id, set()).add(model)
        self._all = set().union(*self._by_project.values())
