"""`chirp up` and what else starts, restarts, prepares and asks processes."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

REPLICAS_MAX = 16


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
def migrate(
    schema_only: Annotated[
        bool, typer.Option("--schema-only", help="Where keys come from elsewhere.")
    ] = False,
) -> None:
    """Bring the database's schema up to date; make keys, and with CHIRP_TLS certificates, where
    there are none."""
    import asyncio

    from mesh import keys
    from ops import certificates, stack
    from storage import database

    settings = stack.running()
    if not schema_only:
        keys.ensure_keys(settings)
        if settings.tls:
            certificates.ensure(settings)
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
def secrets() -> None:
    """Print Kubernetes' Secrets of CHIRP_KEYS, and with CHIRP_TLS of CHIRP_CERTS, for
    `kubectl apply --server-side -f -`. Makes what is not there yet."""
    from mesh import keys
    from mesh import settings as settings_module
    from ops import certificates
    from ops import secrets as secrets_module

    settings = settings_module.load()
    keys.ensure_keys(settings)
    if settings.tls:
        certificates.ensure(settings)
    typer.echo(secrets_module.manifests(settings), nl=False)


@app.command()
def health(
    address: Annotated[str, typer.Argument(help="host:port of a server or worker.")],
    name: Annotated[
        str, typer.Option(help="Who it is, such as tweet_server; needed with CHIRP_TLS.")
    ] = "",
) -> None:
    """Exit with 0 where a process answers SERVING. With CHIRP_TLS it is asked as itself: where it
    runs there need be no certificate but its own."""
    import asyncio

    from mesh.access import SERVICES
    from ops import probes, stack

    settings = stack.settings()
    if settings.tls and name not in SERVICES:
        raise typer.BadParameter(f"one of {', '.join(SERVICES)}", param_hint="--name")
    serving = probes.grpc_serving(address, name=name, as_name=name, settings=settings)
    raise typer.Exit(0 if asyncio.run(serving) else 1)
