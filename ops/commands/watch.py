"""`chirp watch`: streams in the terminal."""

from typing import Annotated

import typer

app = typer.Typer(
    help="Watch a stream in the terminal; comes back and goes on where the line broke.",
    no_args_is_help=True,
)
Watcher = Annotated[str, typer.Argument(help="A username, or the id of an account.")]
Count = Annotated[int | None, typer.Option(min=1, help="Stop after so many; else with Ctrl-C.")]


@app.command("home")
def watch_home(user: Watcher, count: Count = None) -> None:
    """Show what comes into an account's home timeline, as it comes."""
    from ops import stack
    from ops import watch as module

    module.home(stack.running(), stack.gateway_url(), user, count)


@app.command("notifications")
def watch_notifications(user: Watcher, count: Count = None) -> None:
    """Show what others do that concerns an account, as they do it."""
    from ops import stack
    from ops import watch as module

    module.notifications(stack.running(), stack.gateway_url(), user, count)


@app.command("trends")
def watch_trends(
    location: Annotated[str, typer.Argument(help="Such as us or us-ny.")] = "world",
    count: Count = None,
) -> None:
    """Show what trends at a place, as it changes."""
    from ops import stack
    from ops import watch as module

    module.trends(stack.gateway_url(), location, count)
