"""The command line: finds the command, runs it, and turns every failure into one line.

Exit codes: 0 done, 1 unexpected failure (or a check that found something), 2 wrong input or out of memory,
130 interrupted (Ctrl-C), 143 ended (SIGTERM).
A command is a module with `add_arguments(parser)` and `run(args) -> int`; one row in `COMMANDS` adds it.
Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

from anprompt._version import __version__
from anprompt.commands._shared.examples import epilog
from anprompt.commands._shared.parser import Examples, Parser, add_common, add_image_limit
from anprompt.commands._shared.terminal import error_line, quiet_libraries, set_up
from anprompt.commands._shared.together import check_command, is_echo
from anprompt.errors import LONGEST, UserError, choices


class Command(NamedTuple):
    """Where a command lives, and its line in the help."""

    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "demo": Command("anprompt.commands.demo", "train, compare and report on the embedded pictures, in minutes"),
    "fit": Command("anprompt.commands.fit", "train prompts on a data set and write an adapter"),
    "eval": Command("anprompt.commands.eval", "accuracy of an adapter, or of zero-shot CLIP, on a data set"),
    "predict": Command("anprompt.commands.predict", "name pictures with an adapter; any class names"),
    "detect": Command("anprompt.commands.detect", "find what is wrong with an image, from a few normal ones"),
    "attack": Command("anprompt.commands.attack", "accuracy left of an adapter when somebody tries to make it err"),
    "calibrate": Command("anprompt.commands.calibrate", "probabilities that mean what they say; 'none of these'"),
    "serve": Command("anprompt.commands.serve", "an adapter as an HTTP service, with a page to try it on"),
    "export": Command("anprompt.commands.export", "an adapter as one ONNX file that runs without torch"),
    "bench": Command("anprompt.commands.bench", "methods side by side on data sets and seeds, one record a run"),
    "report": Command("anprompt.commands.report", "one HTML page from the records of runs, with charts and pictures"),
    "methods": Command("anprompt.commands.methods", "what can be trained"),
    "convert": Command("anprompt.commands.convert", "an official 'model.pth.tar-N' file to an adapter"),
    "claims": Command("anprompt.commands.claims", "figures others reported, beside those measured here"),
    "data": Command("anprompt.commands.data", "list data sets; check what is missing; prepare downloads"),
    "completion": Command("anprompt.commands.completion", "a script that completes commands in bash, zsh or fish"),
}

_READING = (
    "attack",
    "fit",
    "eval",
    "predict",
    "calibrate",
    "bench",
    "data",
    "serve",
    "report",
    "detect",
)  # commands that read images

_USAGE = """usage: anprompt COMMAND [OPTION ...]

Prompt tuning of CLIP-like models that stays right under noise and on unseen classes.

commands:
{commands}

options:
  -h, --help     this help; 'anprompt COMMAND --help' for a command's own
  --version      the version
  --debug        show the traceback of an unexpected failure

first steps:
  anprompt demo
  anprompt fit --data my_photos/ --shots 16 --out adapter/
  anprompt predict adapter/ picture.jpg --classes "tabby,siamese,lynx"
"""


USERS = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO,
}  # fmt: skip


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, every file is whole and the state of a run is kept."""


@contextlib.contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Within: SIGTERM raises `Terminated`, so that temporary files go and one line says what happened."""

    def ended(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Raises nothing, unless `--debug` asks for the traceback."""
    with _sigterm_as_exception():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    command = next((word for word in arguments if not word.startswith("-")), "")
    try:
        set_up()
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        if not is_echo():
            error_line(str(error))
        if debug:
            raise
        return 2
    except KeyboardInterrupt as stop:
        again = "; run the same command again to resume" if command in ("attack", "fit", "demo", "bench") else ""
        ended = isinstance(stop, Terminated)
        error_line(f"{'ended from outside (SIGTERM)' if ended else 'interrupted'}{again}", kind="")
        return 143 if ended else 130
    except BrokenPipeError:
        _no_more_output(argv)  # the reader (head, less) has gone
        return 0
    except SystemExit as leave:  # argparse, after --help
        return leave.code if isinstance(leave.code, int) else 0
    except OSError as error:
        if debug:
            raise
        line, code = _of_the_system(error)
        if not error.filename:  # stdout is the only thing that is written without a name
            _no_more_output(argv)
        error_line(line)
        return code
    except Exception as error:
        if debug:
            raise
        if short := _out_of_memory(error):
            error_line(short)
            return 2
        from anprompt.utils.files import first_line

        reason = first_line(error)
        error_line(f"unexpected {type(error).__name__}: {reason} (see the traceback with --debug)")
        return 1


def _no_more_output(argv: Sequence[str] | None) -> None:
    """A second failure, while Python flushes at exit, must not show."""
    if argv is None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_the_system(error: OSError) -> tuple[str, int]:
    """What the system refused as a line, and the exit code: 2 where another name or permission mends it."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename:
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
        return f"{name[:LONGEST]!r}: {reason}.", 2 if error.errno in USERS else 1
    return f"The output can't be written: {reason}.", 1


def _out_of_memory(error: Exception) -> str | None:
    if not isinstance(error, (MemoryError, RuntimeError)):
        return None
    from anprompt.prompting.memory import is_out_of_memory, out_of_memory

    return str(out_of_memory(error)) if is_out_of_memory(error) else None


def _dispatch(arguments: list[str]) -> int:
    leading: list[str] = []
    while arguments and arguments[0].startswith("-"):
        leading.append(arguments.pop(0))
    for word in leading:
        if word not in ("-h", "--help", "--version", "--debug", "--verbose", "--quiet"):
            raise choices("option", word, ("--help", "--version", "--debug", "--verbose", "--quiet"))
    if "--version" in leading:
        print(f"anprompt {__version__}")
        return 0
    if not arguments or {"-h", "--help"} & set(leading):
        width = max(map(len, COMMANDS)) + 2
        rows = "\n".join(f"  {name:{width}}{command.help}" for name, command in COMMANDS.items())
        print(_USAGE.format(commands=rows), end="")
        return 0
    name = arguments.pop(0)
    if name not in COMMANDS:
        raise choices("command", name, COMMANDS)
    check_command(name)
    args = parser_of(name).parse_args([*leading, *arguments])
    quiet_libraries(verbose=args.verbose, quiet=args.quiet)
    limit = getattr(args, "max_megapixels", None)
    if limit is None:
        return _module(name).run(args)
    from anprompt.data.image_limits import limited

    with limited(limit):
        return _module(name).run(args)


def parser_of(name: str) -> Parser:
    """The parser of a command; its help ends with examples."""
    line = COMMANDS[name].help
    parser = Parser(
        prog=f"anprompt {name}", description=f"{line[:1].upper()}{line[1:]}.", epilog=epilog(name),
        formatter_class=Examples,
    )  # fmt: skip
    _module(name).add_arguments(parser)
    if name in _READING:
        add_image_limit(parser)
    add_common(parser)
    return parser


def _module(name: str) -> ModuleType:
    path = COMMANDS[name].module
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise UserError(f"Command {name!r} is not part of this installation.") from None


if __name__ == "__main__":
    sys.exit(main())
