"""`anprompt serve`: an adapter as an HTTP service with a page to try it on."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import sys
from pathlib import Path

from anprompt.commands._shared.common import add_adapter, add_device, open_method
from anprompt.commands._shared.parser import up_to, whole
from anprompt.commands._shared.terminal import note_line, print_json, say
from anprompt.commands.predict import class_list
from anprompt.errors import UserError
from anprompt.utils.files import first_line, read_text

NEEDED = ("fastapi", "uvicorn", "python_multipart")
MOST_MB, MOST_SECONDS = 1000, 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    add_adapter(parser)
    parser.add_argument(
        "--classes", metavar="NAMES",
        help="'a,b,c', or @file.txt with a name per line, for requests that bring none (default: as trained)",
    )  # fmt: skip
    add_device(parser, "precision of the frozen weights (default: fp32)")
    parser.add_argument("--json", action="store_true", help="say where it listens as JSON")
    who = parser.add_argument_group("who may ask")
    who.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    who.add_argument("--port", type=whole(0, 65535), default=8000, metavar="N", help="default 8000; 0 takes a free one")
    who.add_argument("--token", metavar="TEXT", help="what requests must carry; @file reads it from a file")
    who.add_argument("--no-token", action="store_true", help="let everybody ask who reaches --host")
    who.add_argument("--allow-host", action="append", default=[], metavar="NAME",
                     help="a DNS name the service is reached by; may be repeated")  # fmt: skip
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument(
        "--max-body", type=up_to(MOST_MB), default=10, metavar="MB", help="largest request (default: 10)"
    )
    bounds.add_argument("--max-classes", type=whole(2, 100_000), default=500, metavar="N",
                        help="most class names in a request (default: 500)")  # fmt: skip
    bounds.add_argument("--batch", type=whole(1, 4096), default=32, metavar="N",
                        help="most pictures in one pass of the model (default: 32)")  # fmt: skip
    bounds.add_argument("--wait", type=whole(0, 60_000), default=0, metavar="MS",
                        help="milliseconds to wait for a batch to fill (default: 0: batches form while one runs)")  # fmt: skip
    bounds.add_argument("--queue", type=whole(64, 100_000), default=512, metavar="N",
                        help="most pictures waiting (default: 512)")  # fmt: skip
    bounds.add_argument(
        "--timeout", type=up_to(MOST_SECONDS), default=30, metavar="S", help="time for a request (default: 30)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"serve needs the package {name}: pip install 'anprompt[serve]'.")
    from anprompt.data.image_limits import pixel_limit
    from anprompt.serve.app import create_app
    from anprompt.serve.run import address, bind
    from anprompt.serve.run import run as run_server
    from anprompt.serve.settings import Settings

    token = read_token(args.token, args.no_token, args.host)
    names = class_list(args.classes) if args.classes is not None else None
    settings = Settings(
        token=token, names=tuple(name.lower() for name in (*args.allow_host, socket.gethostname(), args.host)),
        body=int(args.max_body * 1_000_000), classes=args.max_classes, batch=args.batch, queue=args.queue,
        wait=args.wait / 1000, seconds=args.timeout, pixels=pixel_limit(),
    )  # fmt: skip
    listener = bind(args.host, args.port)  # a port that is taken shows before a model is loaded
    with listener:
        app = create_app(open_method(args, names, None), settings, names)
        run_server(app, listener, lambda: _started(args, address(listener)))
    if not args.quiet:
        note_line("stopped")
    return 0


def _started(args: argparse.Namespace, place: str) -> None:
    if args.json:
        print_json({"adapter": args.adapter, "address": place})
        sys.stdout.flush()  # a program that waits for the line must get it while the service runs
    else:
        say(f"serving {args.adapter} at {place} (stop with Ctrl+C)")


def read_token(token: str | None, no_token: bool, host: str) -> str | None:
    """The token, or None where none is needed.

    Raises:
        UserError: an address that others reach, without a decision; a token that is too short or unreadable.
    """
    from anprompt.serve.settings import is_loopback

    if token is not None and no_token:
        raise UserError("Give either --token or --no-token.")
    if token is None:
        if not no_token and not is_loopback(host):
            raise UserError(
                f"Others can reach {host}: give a --token that requests must carry, or --no-token if everybody may ask."
            )
        return None
    if token.startswith("@"):
        try:
            token = read_text(Path(token[1:]), largest=4096).strip()
        except (OSError, ValueError) as error:
            raise UserError(
                f"--token: can't read {token[1:]!r} ({getattr(error, 'strerror', None) or first_line(error)})."
            ) from None
    if len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError("--token must have at least 8 letters, digits or signs, without spaces.")
    return token
