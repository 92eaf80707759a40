"""The command line. Each command imports what it needs when it runs, so that `--help` is quick."""

import sys

import typer

from ops.commands import (
    accounts,
    certificates,
    deadletters,
    keys,
    processes,
    timelines,
    trends,
    watch,
)

app = typer.Typer(
    help="Chirp: the back end of a microblog.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (processes, accounts, timelines):
    app.add_typer(commands.app)
app.add_typer(watch.app, name="watch")
app.add_typer(deadletters.app, name="deadletters")
app.add_typer(trends.app, name="trends")
app.add_typer(keys.app, name="keys")
app.add_typer(certificates.app, name="certs")


def main() -> None:
    """Runs the command line. What a user can put right is said in one line."""
    try:
        app()
    except Exception as error:
        if not _is_the_users(error):
            raise
        sys.exit(f"chirp: {error}")


def _is_the_users(error: Exception) -> bool:
    import psycopg
    import redis.exceptions

    from domain.errors import ChirpError

    away = (
        psycopg.OperationalError | redis.exceptions.ConnectionError | redis.exceptions.TimeoutError
    )
    return isinstance(error, OSError | LookupError | ChirpError | away)


if __name__ == "__main__":
    main()
