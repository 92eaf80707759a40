"""The command line. Each command imports what it needs when it runs, so that `--help` is quick."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Chirp: the back end of a microblog.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

REPLICAS_MAX = 16


def main() -> None:
    """Runs the command line. What a user can put right is said in one line."""
    try:
        app()
    except Exception as error:
        if not _is_the_users(error):
            raise
        sys.exit(f"chirp: {error}")


@app.command()
def up(
    replicas: Annotated[
        int, typer.Option(min=1, max=REPLICAS_MAX, help="So many of each server and worker.")
    ] = 1,
) -> None:
    """Start everything on this machine and serve until Ctrl-C."""
    from mesh import settings
    from ops import up as up_module

    raise typer.Exit(up_module.run(settings.load(), replicas=replicas))


@app.command()
def restart() -> None:
    """Restart all servers and workers of `chirp up --replicas N`, one replica after the other.

    Nothing that people see is interrupted: calls go to the other replica, streams are told to come
    back there, and miss nothing. So a new release is put under a running stack.
    """
    from mesh import settings
    from ops import rolling

    typer.echo(rolling.restart(settings.load()))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date, and make the keys where there are none."""
    import asyncio

    from mesh import tokens
    from ops import stack
    from storage import database

    settings = stack.running()
    tokens.ensure_keys(settings)
    for name in asyncio.run(database.migrate(settings.database_url)):
        typer.echo(f"applied {name}")


@app.command("gateway-config")
def gateway_config(
    folder: Annotated[Path, typer.Argument(help="Where Envoy finds it as /etc/chirp.")],
) -> None:
    """Write what Envoy reads into a folder: its configuration, the protos, the public keys."""
    from mesh import settings
    from ops import gatewayfiles

    gatewayfiles.write(folder, settings.load())


@app.command()
def health(
    address: Annotated[str, typer.Argument(help="host:port of a server or worker.")],
) -> None:
    """Exit with 0 where a process answers SERVING."""
    import asyncio

    from ops import probes

    raise typer.Exit(0 if asyncio.run(probes.grpc_serving(address)) else 1)


@app.command()
def token(
    user: Annotated[str, typer.Argument(help="A username, or the id of an account.")],
) -> None:
    """Print an access token for an account, as signing in would give it."""
    import asyncio

    from ops import mint, stack

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


watch = typer.Typer(
    help="Watch a stream in the terminal; comes back and goes on where the line broke.",
    no_args_is_help=True,
)
app.add_typer(watch, name="watch")

Watcher = Annotated[str, typer.Argument(help="A username, or the id of an account.")]
Count = Annotated[int | None, typer.Option(min=1, help="Stop after so many; else with Ctrl-C.")]


@watch.command("home")
def watch_home(user: Watcher, count: Count = None) -> None:
    """Show what comes into an account's home timeline, as it comes."""
    from ops import stack
    from ops import watch as module

    module.home(stack.running(), stack.gateway_url(), user, count)


@watch.command("notifications")
def watch_notifications(user: Watcher, count: Count = None) -> None:
    """Show what others do that concerns an account, as they do it."""
    from ops import stack
    from ops import watch as module

    module.notifications(stack.running(), stack.gateway_url(), user, count)


@watch.command("trends")
def watch_trends(
    location: Annotated[str, typer.Argument(help="Such as us or us-ny.")] = "world",
    count: Count = None,
) -> None:
    """Show what trends at a place, as it changes."""
    from ops import stack
    from ops import watch as module

    module.trends(stack.gateway_url(), location, count)


deadletters = typer.Typer(
    help="What consumers could not handle: list it, try it again, throw it away.",
    invoke_without_command=True,
)
app.add_typer(deadletters, name="deadletters")

Group = Annotated[str, typer.Argument(help="The consumer group, such as fanout.")]


@deadletters.callback()
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


@deadletters.command()
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


@deadletters.command()
def discard(
    group: Group,
    ids: Annotated[list[str], typer.Argument(help="The letters, as the list names them.")],
) -> None:
    """Throw letters away, for ever."""
    import asyncio

    from ops import deadletters as module
    from ops import stack

    typer.echo(f"{asyncio.run(module.discard(stack.running(), group, ids))} discarded")


trends = typer.Typer(help="What people talk about.", no_args_is_help=True)
app.add_typer(trends, name="trends")


@trends.callback()
def about_trends() -> None:
    """What people talk about."""


@trends.command()
def backtest(
    files: Annotated[list[Path], typer.Argument(help="CSV: created_at_ms, username, content.")],
    order: Annotated[str, typer.Option(help="score or rising.")] = "score",
    at: Annotated[str | None, typer.Option(help="The list of this minute only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=50, help="Tags of each list.")] = 10,
    tag: Annotated[
        list[str] | None, typer.Option(help="Say when this tag was first what; may repeat.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw rank and value into a PNG.")] = None,
    plant: Annotated[
        list[str] | None, typer.Option(help="TAG:AT:SIZE, a burst for the grid; may repeat.")
    ] = None,
    grid: Annotated[
        bool, typer.Option(help="Compare settings by bursts that are planted into noise.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="So many runs of the grid.")] = 3,
) -> None:
    """Replay files of tweets through the code that ranks trends, in simulated time."""
    from rich.console import Console

    from domain import trend
    from mesh import settings
    from ops import trends_backtest as module

    rules = settings.load().trend_rules
    said = [module.read(file) for file in files]
    if grid or plant:
        plants = [module.parse_plant(each) for each in plant or ()]
        module.run_grid(Console(), said, plants, rules, seeds=seeds)
        return
    for each in said:
        module.run(
            Console(), each, order=trend.order(order), rules=rules, tags=tag or (), at=at,
            limit=limit, plot=plot,
        )  # fmt: skip


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
