"""argparse with errors of one line that name the nearest right word, and the value types commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from anprompt.commands._shared.terminal import note_line
from anprompt.errors import UserError, choices


class Examples(argparse.HelpFormatter):
    """Help whose examples stay lines; the rest is wrapped as usual."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return "".join(indent + line for line in text.splitlines(keepends=True))
        return super()._fill_text(text, width, indent)


PLACES = ("bank", "descriptions", "out", "root", "runs", "tensorboard")  # options that name folders or files


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` instead of printing usage and leaving."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.old_spellings: dict[str, str] = {}

    def error(self, message: str) -> NoReturn:
        _, colon, reason = message.removeprefix("argument ").partition(": ")
        if colon and reason.startswith("Unknown "):  # names what was wrong, and what there is, itself
            raise UserError(reason)
        raise UserError(f"{message[:1].upper()}{message[1:]} (see '{self.prog} --help')")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Like argparse's; unknown options are reported before missing ones, since one causes the other."""
        words = self._new_spellings(list(args or ()))
        known = [s for action in self._actions for s in action.option_strings]
        for word in words[: words.index("--") if "--" in words else None]:
            name = word.partition("=")[0]
            if name.startswith("-") and len(name) > 1 and name not in known and not _is_number(name):
                raise choices("option", name, sorted(s for s in known if s.startswith("--")))
        found, extra = self.parse_known_intermixed_args(words, namespace)
        if extra:
            self.error(f"unexpected argument {extra[0]!r}")
        return found

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Like argparse's; an empty name (of a variable that is not set) would mean the current folder."""
        place = action.dest in PLACES or any(word in str(action.metavar) for word in ("DIR", "FILE", "PATH"))
        given = arg_string != action.default  # argparse reads defaults that are text in the same way
        if place and given and isinstance(arg_string, str) and not arg_string.strip():
            raise argparse.ArgumentError(action, "is empty; give a name (a single '.' is the current folder)")
        return super()._get_value(action, arg_string)

    def _new_spellings(self, words: list[str]) -> list[str]:
        """The words with today's option names; one line on stderr for each old one."""
        end = words.index("--") if "--" in words else len(words)
        for place, word in enumerate(words[:end]):
            name, equals, value = word.partition("=")
            if name in self.old_spellings:
                new = self.old_spellings[name]
                words[place] = f"{new}{equals}{value}"
                note_line(f"{name} is now {new}; the old spelling works in this version only")
        return words


def renamed(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Let an option's old spelling work for one version, with a hint."""
    if isinstance(parser, Parser):
        parser.old_spellings[old] = new


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options every command has."""
    group = parser.add_argument_group("messages")
    group.add_argument("--quiet", action="store_true", help="results and errors only")
    group.add_argument("--verbose", action="store_true", help="also what the library logs")
    group.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def add_image_limit(parser: argparse.ArgumentParser) -> None:
    """`--max-megapixels`, of every command that reads images."""
    parser.add_argument(
        "--max-megapixels", type=positive, metavar="N",
        help="largest image to read, in millions of pixels; a JPEG, which is decoded small, may have four times as "
        "many (default: 80, or ANPROMPT_MAX_MEGAPIXELS)",
    )  # fmt: skip


# --- value types: a message from here stands after "argument --name:" --------------------------------
def one_of(kind: str, names: Iterable[str]) -> Callable[[str], str]:
    """One of some words; the nearest is named where it is none."""
    known = tuple(names)

    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(str(choices(kind, text, known)))
        return text

    parse.words = known  # type: ignore[attr-defined]  # for shell completion
    return parse


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A whole number from `least` on, at most `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text[:40]!r}") from None
        if not least <= number <= most:
            upper = f"to {most}" if number > most else "on"
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} {upper}, not {text[:40]}")
        return number

    return parse


def shots(text: str) -> int | None:
    """Pictures per class; "all" is None."""
    if text == "all":
        return None
    try:
        return whole(1)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error} (or 'all')") from None


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text[:40]!r}") from None
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text[:40]}")
    return number


def up_to(most: float) -> Callable[[str], float]:
    """A number above 0, at most `most`."""

    def parse(text: str) -> float:
        number = positive(text)
        if number > most:
            raise argparse.ArgumentTypeError(f"must be at most {most:,g}, not {text[:40]}")
        return number

    return parse


def add_bank(parser: argparse.ArgumentParser, purpose: str) -> None:
    """`--bank` and `--bank-gb`."""
    parser.add_argument(
        "--bank", default="off", metavar="DIR|off",
        help=f"keep what the frozen encoder makes of the training views in this folder, {purpose}",
    )  # fmt: skip
    parser.add_argument(
        "--bank-gb", type=up_to(1e6), default=10.0, metavar="N", help="disk space of the bank (default: 10)"
    )


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    number = positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, not {text}")
    return number


def setting(text: str) -> tuple[str, Any]:
    """`key=value`; the value as a boolean, number, list (`[a, b]` or `a,b`) or text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"must look like key=value, not {text!r}")
    return key.strip().replace("-", "_"), _value(value.strip())


def _value(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_value(part.strip().strip("'\"")) for part in text[1:-1].split(",") if part.strip()]
    if "," in text:
        return [_value(part.strip()) for part in text.split(",") if part.strip()]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        # The size first: Python can't turn an integer of 400 digits into a float.
        if abs(number) > 2**63 or not math.isfinite(number):
            raise argparse.ArgumentTypeError(f"must be a finite number of sound size, not {text[:40]!r}")
        return number
    return text
