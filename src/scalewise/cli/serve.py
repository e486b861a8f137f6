"""`scalewise app`: the web page."""

from __future__ import annotations

from typing import Annotated

import typer


def app(
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.", metavar="HOST")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 7860,
    max_pixels: Annotated[
        float, typer.Option(help="Megapixels that a result may have.", min=0.1, metavar="MPX")
    ] = 50.0,
    max_bytes: Annotated[float, typer.Option(help="MiB that an upload may have.", min=0.1, metavar="MIB")] = 256.0,
    queue: Annotated[int, typer.Option(help="Requests that may wait for the one that runs.", min=0)] = 8,
    seconds: Annotated[float, typer.Option(help="Time that one request may take.", min=1)] = 900.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Further name under which the server is reached, as through a proxy; repeatable.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Serve the web page and its HTTP interface from this machine. Needs the extra: pip install 'scalewise[app]'."""
    from scalewise.app import Limits, serve

    limits = Limits(int(max_bytes * 2**20), int(max_pixels * 1e6), queue, seconds)
    typer.echo(f"scalewise: http://{'localhost' if host == '127.0.0.1' else host}:{port}  (Ctrl+C ends it)")
    serve(host, port, limits, allow_host or ())
