"""
The tables, and nothing that knows HTTP.

Names follow the design: ``projects(id, name, openai_api_key, …)``, ``tokens(token, project_id, expires_at,
is_active, request_count, …)``. A token is stored as its SHA-256 alone, an upstream key sealed. Times are UTC.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, ForeignKey, Index, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import JSON, TypeDecorator

NAME_LENGTH = 200


class Base(DeclarativeBase):
    """Declarative base of every table."""


# Rows stay readable after their commit: what was just created is shown to whoever asked for it.
db = SQLAlchemy(model_class=Base, disable_autonaming=True, session_options={"expire_on_commit": False})


class UtcDateTime(TypeDecorator[datetime]):
    """
    An aware UTC time. PostgreSQL keeps the zone; SQLite keeps text that sorts by time.

    A naive value raises ValueError: it would mean another instant on another machine.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime was given where aware UTC is needed")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def new_id() -> str:
    """A fresh random UUID in text."""
    return str(uuid.uuid4())


class Project(db.Model):  # type: ignore[name-defined, misc]
    """Owner of one upstream API key, sealed in ``openai_api_key`` and recognised by ``key_hint``."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    openai_api_key: Mapped[str] = mapped_column(Text)
    key_hint: Mapped[str] = mapped_column(String(4))
    base_url: Mapped[str | None] = mapped_column(Text, default=None)
    is_active: Mapped[bool] = mapped_column(default=True)
    stream_usage: Mapped[str] = mapped_column(String(16), default="as-sent")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    tokens: Mapped[list[Token]] = relationship(back_populates="project", passive_deletes=True)


class Token(db.Model):  # type: ignore[name-defined, misc]
    """
    A withering token, known by ``id``; ``token`` is the SHA-256 of the secret in hex.

    ``request_count`` counts the window that began at ``window_started_at``. ``rate_limit`` None means the
    setting's limit, whatever it is at the time.
    """

    __tablename__ = "tokens"
    __table_args__ = (
        Index("ix_tokens_project_id_created_at", "project_id", "created_at"),
        Index("ix_tokens_expires_at", "expires_at"),
    )

    token: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(36), unique=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    label: Mapped[str | None] = mapped_column(String(NAME_LENGTH), default=None)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    is_active: Mapped[bool] = mapped_column(default=True)
    rate_limit: Mapped[int | None] = mapped_column(default=None)
    request_count: Mapped[int] = mapped_column(default=0)
    window_started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)

    project: Mapped[Project] = relationship(back_populates="tokens")


class AuditEntry(db.Model):  # type: ignore[name-defined, misc]
    """One change by an operator. Rows are added in the transaction of the change, and never touched again."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_at", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(NAME_LENGTH))
    address: Mapped[str | None] = mapped_column(String(64), default=None)
    action: Mapped[str] = mapped_column(String(64))
    target_type: Mapped[str] = mapped_column(String(16))
    target_id: Mapped[str] = mapped_column(String(36))
    target_name: Mapped[str | None] = mapped_column(String(NAME_LENGTH), default=None)
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
