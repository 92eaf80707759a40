"""`chirp token`, `tier` and `explain`: about one account (or service)."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def token(
    user: Annotated[str | None, typer.Argument(help="A username, or the id of an account.")] = None,
    service: Annotated[
        str | None, typer.Option(help="Instead: the name of a service, such as timeline_server.")
    ] = None,
) -> None:
    """Print an access token for an account, as signing in would give it, or for a service."""
    import asyncio

    from ops import mint, stack

    if (user is None) is (service is None):
        raise typer.BadParameter("say either a user or --service NAME")
    if service is not None:
        typer.echo(mint.service_token(stack.settings(), service))
    elif user is not None:
        typer.echo(asyncio.run(mint.token(stack.running(), user)))


@app.command()
def tier(
    user: Annotated[str, typer.Argument(help="A username, or the id of an account.")],
) -> None:
    """Show an account's tier, its history, and how its next tweet reaches its followers."""
    import asyncio

    from rich.console import Console

    from ops import stack
    from ops import tier as module

    Console().print(asyncio.run(module.show(stack.running(), user)))


@app.command()
def explain(
    user: Annotated[str, typer.Argument(help="A username, or the id of an account.")],
    tweet: Annotated[int, typer.Argument(min=1, help="The id of a tweet.")],
) -> None:
    """Say why a tweet is, or is not, in somebody's home timeline, and by which way it came."""
    import asyncio

    from rich.console import Console

    from ops import explain as module
    from ops import stack

    Console().print(asyncio.run(module.show(stack.running(), user, tweet)))
