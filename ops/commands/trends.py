"""`chirp trends`: the ranking of trends, over files of tweets."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="What people talk about.", no_args_is_help=True)


@app.callback()
def about_trends() -> None:
    """What people talk about."""


@app.command()
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
