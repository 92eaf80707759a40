"""`chirp load`, `verify` and `rebuild`: about the timelines of many."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def load(
    graph: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Lines `follower,followee`; .xz and .gz too."
        ),
    ] = None,
    tweets: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CSV with `username` and `content`."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Tweets a second; else as fast as it goes.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Only the first so many rows of each file.")
    ] = None,
    accounts: Annotated[
        int | None, typer.Option(min=1, help="Only the so many most followed accounts post.")
    ] = None,
) -> None:
    """Load a follower graph in bulk, and post a file of tweets through TweetService.

    The graph's account n is named ego_<n> and has no password: `chirp token ego_<n>`. The tweets'
    usernames, in the order of their first appearance, are mapped onto these accounts, the most
    followed first. Running it again doubles nothing and goes on where it was interrupted.
    """
    from ops import load as module
    from ops import stack

    if graph is None and tweets is None:
        raise typer.BadParameter("say --graph FILE, --tweets FILE or both")
    settings, status = stack.running(), 0
    if graph is not None:
        status |= module.graph(settings, graph, limit=limit)
    if tweets is not None:
        status |= module.tweets(settings, tweets, rate=rate, limit=limit, accounts=accounts)
    raise typer.Exit(status)


@app.command()
def verify(
    random: Annotated[
        int | None, typer.Option(min=0, help="So many random accounts; 100 where none are named.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed chooses other random accounts.")] = 1,
    top_following: Annotated[
        int, typer.Option(min=0, help="And so many of those that follow most.")
    ] = 0,
    users: Annotated[
        str, typer.Option(help="And these: names with commas between, or a file of names.")
    ] = "",
    everybody: Annotated[bool, typer.Option("--all", help="All accounts.")] = False,
    materialise: Annotated[
        bool,
        typer.Option("--materialise", help="Only read first pages, so that fan-out pushes there."),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make anew what differs, and look again.")
    ] = False,
    gateway: Annotated[str, typer.Option(help="The gateway's URL; by default the stack's.")] = "",
    direct: Annotated[bool, typer.Option("--direct", help="Ask timeline_server by gRPC.")] = False,
) -> None:
    """Compare home timelines, all pages end to end, with plain SQL; exit with 1 on a difference
    that was not repaired.

    Says how many entries came which way: pushed by fan-out, pulled when read, the reader's own,
    rebuilt by an earlier read, or from past the end of the list.
    """
    from ops import stack
    from ops import verify as module
    from ops.verifier import Selection

    settings = stack.running()
    chosen = Selection(
        users=module.read_users(users),
        random=(0 if users or top_following else 100) if random is None else random,
        seed=seed,
        top_following=top_following,
        everybody=everybody,
    )
    url = None if direct else gateway or stack.gateway_url()
    raise typer.Exit(
        module.run(settings, chosen, gateway=url, materialise=materialise, repair=repair)
    )


@app.command()
def rebuild(
    user: Annotated[
        str | None, typer.Option("--user", help="A username, or the id of an account.")
    ] = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="All; goes on where it was stopped.")
    ] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="With --all: do not go on, begin again.")
    ] = False,
) -> None:
    """Make materialised home timelines anew, while people read them.

    Nobody sees an empty or partial page meanwhile. It can be stopped with Ctrl-C and run again.
    """
    from ops import rebuild as module
    from ops import stack

    if (user is None) is not everybody:
        raise typer.BadParameter("say --user ID or --all")
    raise typer.Exit(module.run(stack.running(), user, from_start=from_start))
