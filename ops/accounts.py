"""Accounts as people name them on the command line: by username or by id."""

from domain.ids import UserId
from storage import users
from storage.database import Connection
from storage.users import UserRow


async def find(connection: Connection, user: str) -> UserRow:
    """Returns the account of a username or an id. Raises LookupError where there is none."""
    # A username may be all digits: the name comes first, as people say it more often.
    row = await users.fetch_by_username(connection, user)
    if row is None and user.isascii() and user.isdecimal() and len(user) <= 18:
        row = await users.fetch_by_id(connection, UserId(int(user)))
    if row is None:
        raise LookupError(f"no account {user!r}")
    return row
