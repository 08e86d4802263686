"""What goes wrong in a database, by names of ours: no floor above this one knows SQLAlchemy's."""

from __future__ import annotations

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

# Whatever it is. Its message may show a statement's values.
DatabaseError = SQLAlchemyError
# Of these the driver told in `orig`: that shows none.
DriverError = DBAPIError
# No connection, or no answer over one.
NoAnswer = OperationalError
# It cannot do its work. PostgreSQL says an internal error where it takes no writes, as the server does that one
# failed over from, and a programming error where a table is missing.
DATABASE_DOWN = (NoAnswer, InterfaceError, InternalError, ProgrammingError, PoolTimeout)
# A value that it does not take. PostgreSQL takes no NUL in a text, not even in one that is only looked for; what else
# can be told apart before has been.
Unstorable = DataError
