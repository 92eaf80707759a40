"""`chirp deadletters`: what consumers could not handle."""

from typing import Annotated

import typer

app = typer.Typer(
    help="What consumers could not handle: list it, try it again, throw it away.",
    invoke_without_command=True,
)
Group = Annotated[str, typer.Argument(help="The consumer group, such as fanout.")]


@app.callback()
def list_deadletters(
    context: typer.Context,
    group: Annotated[str | None, typer.Option(help="Of this consumer group only.")] = None,
) -> None:
    """Show the dead letters, where no command says otherwise."""
    if context.invoked_subcommand is not None:
        return
    import asyncio

    from rich.console import Console

    from ops import deadletters as module
    from ops import stack

    Console().print(asyncio.run(module.list_letters(stack.running(), group)))


@app.command()
def redrive(
    group: Group,
    ids: Annotated[list[str] | None, typer.Argument(help="Of these only; else all.")] = None,
) -> None:
    """Have the group's workers handle letters again."""
    import asyncio

    from ops import deadletters as module
    from ops import stack

    count = asyncio.run(module.redrive(stack.running(), group, ids or None))
    typer.echo(f"{count} to be tried again; `chirp deadletters` shows those that fail")


@app.command()
def discard(
    group: Group,
    ids: Annotated[list[str], typer.Argument(help="The letters, as the list names them.")],
) -> None:
    """Throw letters away, for ever."""
    import asyncio

    from ops import deadletters as module
    from ops import stack

    typer.echo(f"{asyncio.run(module.discard(stack.running(), group, ids))} discarded")
