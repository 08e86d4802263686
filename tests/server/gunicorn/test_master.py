"""What gunicorn's master makes for its workers before it forks them."""

import pytest
from flask import Flask

from server.gunicorn import master


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.setattr(master, "_settings", object())
    monkeypatch.setattr(master, "_application", None)


def test_workers_serve_what_was_made_with_the_newest_settings():
    made = []

    def create_app(settings):
        made.append(Flask("made"))
        assert settings is master.settings()
        return made[-1]

    master.make_application(create_app)
    master.make_application(create_app)

    assert master.application() is made[1]


def test_what_cannot_be_made_is_left_to_the_workers():
    def fails(_settings):
        raise OSError("no such file")

    master.make_application(lambda _settings: Flask("from before a reload"))
    master.make_application(fails)

    assert master.application() is None
