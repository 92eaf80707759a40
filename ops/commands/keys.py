"""`chirp keys`: the keys that sign tokens."""

from typing import Annotated

import typer

app = typer.Typer(help="The keys that sign tokens: list them, change them.", no_args_is_help=True)


@app.command("list")
def list_keys() -> None:
    """Show every key that is believed: whose it is, since when it signs, until when it is good."""
    from rich.console import Console

    from ops import keys as module
    from ops import stack

    Console().print(module.table(stack.settings()))


@app.command()
def rotate(
    revoke: Annotated[
        bool,
        typer.Option(
            "--revoke", help="After a theft: believe no older key any more. All sign in again."
        ),
    ] = False,
) -> None:
    """Publish new keys, and remove those that nobody needs any more.

    Nothing is interrupted and nothing needs a restart: a new key signs when everybody knows it
    (CHIRP_KEY_LEAD_S), and an old one is believed until all that it signed has expired. Run it as
    often as you like, say once a month.
    """
    from rich.console import Console

    from ops import keys as module
    from ops import stack

    settings = stack.settings()
    console = Console()
    console.print(module.rotate(settings, revoke=revoke))
    console.print(module.table(settings))
