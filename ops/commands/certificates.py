"""`chirp certs`: the certificates of mutual TLS."""

import typer

app = typer.Typer(help="Certificates of mutual TLS (CHIRP_TLS): make them, change them.")


@app.callback(invoke_without_command=True)
def certs(context: typer.Context) -> None:
    """Make an authority, and a certificate for each service and the gateway, where there are none
    or they will expire within a month. Show until when each is good.

    The authority is for development and for those who have none of their own. Running processes
    take new certificates up without a restart.
    """
    if context.invoked_subcommand is None:
        _make(rotate=False)


@app.command()
def rotate() -> None:
    """Make a new key and certificate for each. Nothing is interrupted, nothing needs a restart."""
    _make(rotate=True)


def _make(*, rotate: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ops import certificates, stack

    settings = stack.settings()
    made = certificates.ensure(settings, rotate=rotate)
    table = Table("certificate of", "good until", "", box=None, pad_edge=False)
    for name, expiry in certificates.expiries(settings).items():
        table.add_row(name, f"{expiry:%Y-%m-%d %H:%M} UTC", "new" if name in made else "")
    Console().print(table)
