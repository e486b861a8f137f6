"""`scalewise app`: the web page."""

from __future__ import annotations

from typing import Annotated

import typer

from scalewise.cli.options import Device, Threads, use_threads

LIMITS = "What one server grants"
WHO = "Who may come in"


def app(
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.", rich_help_panel=WHO)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535, rich_help_panel=WHO)] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            help="What everybody has to know who comes in; needed with --host.",
            envvar="SCALEWISE_TOKEN",
            metavar="SECRET",
            rich_help_panel=WHO,
        ),
    ] = None,
    everybody: Annotated[
        bool, typer.Option("--open", help="With --host: without a token, for everybody.", rich_help_panel=WHO)
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name that the server is called by, of a proxy for instance.",
            metavar="NAME",
            rich_help_panel=WHO,
        ),
    ] = None,
    max_pixels: Annotated[
        float, typer.Option(help="Megapixels of a result.", min=0.1, metavar="MPX", rich_help_panel=LIMITS)
    ] = 200.0,
    max_size: Annotated[
        float, typer.Option(help="MiB of an upload.", min=0.1, metavar="MIB", rich_help_panel=LIMITS)
    ] = 256.0,
    queue: Annotated[int, typer.Option(help="Jobs that may wait.", min=0, rich_help_panel=LIMITS)] = 16,
    per_visitor: Annotated[
        int, typer.Option(help="Jobs of one visitor that may run or wait.", min=1, rich_help_panel=LIMITS)
    ] = 4,
    max_clip: Annotated[
        float, typer.Option(help="Seconds of a clip.", min=1, metavar="SECONDS", rich_help_panel=LIMITS)
    ] = 600.0,
    seconds: Annotated[float, typer.Option(help="Time that one job may take.", min=1, rich_help_panel=LIMITS)] = 900.0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Serve the web page and its HTTP interface from this machine. Needs the extra "app"."""
    use_threads(threads)
    from scalewise.app.serving import access_for, serve
    from scalewise.app.worker import Limits

    access = access_for(host, port, tuple(allow_host or ()), token, everybody)
    if everybody and token is None:
        typer.echo(f"scalewise: warning: everybody who reaches {host}:{port} can use this server (--open)", err=True)
    granted = {"queue": queue, "per_visitor": per_visitor, "seconds": seconds, "clip_seconds": max_clip}
    granted |= {"max_bytes": int(max_size * 2**20), "max_pixels": int(max_pixels * 1e6)}
    limits = Limits(**granted, device=device)
    serve(host, port, limits, access=access, say=typer.echo)
