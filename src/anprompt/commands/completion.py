"""`anprompt completion SHELL`: a completion script for bash, zsh or fish, made from the commands' own options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

from anprompt.commands._shared.parser import Parser, one_of
from anprompt.commands._shared.terminal import print_json

SHELLS = ("bash", "zsh", "fish")


class Option(NamedTuple):
    """One option of a command.

    Attributes:
        words: the words it may take, as far as they are known.
        takes: whether a value follows; without `words` a file is offered.
    """

    names: tuple[str, ...]
    help: str
    words: tuple[str, ...]
    takes: bool


class Entry(NamedTuple):
    """One command: its line in the help, its options, and the words its first argument may be."""

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `completion`."""
    parser.add_argument("shell", type=one_of("shell", SHELLS), metavar="bash|zsh|fish", help="your shell")
    parser.add_argument("--json", action="store_true", help="print the script as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    from anprompt.commands.main import COMMANDS, parser_of

    entries = [entry(name, COMMANDS[name].help, parser_of(name)) for name in COMMANDS]
    script = {"bash": bash, "zsh": zsh, "fish": fish}[args.shell](entries)
    if args.json:
        print_json({"shell": args.shell, "script": script})
    else:
        print(script, end="")
    return 0


def entry(name: str, line: str, parser: Parser) -> Entry:
    """What a command's parser knows of itself."""
    options, words = [], ()
    for action in parser._actions:
        known = tuple(getattr(action.type, "words", ()))
        if action.option_strings:
            text = " ".join((action.help or "").replace("%(default)s", str(action.default)).split())
            options.append(Option(tuple(action.option_strings), text, known, action.nargs != 0))
        elif known and not words:
            words = known
    return Entry(name, line, tuple(options), words)


# --- bash -----------------------------------------------------------------------------------------
_BASH = """\
# bash completion of anprompt; try it with: eval "$(anprompt completion bash)"
_anprompt() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}} $before" in
{values}
    esac
    if [ -z "$words" ]; then
        case "${{COMP_WORDS[1]}}" in
{options}
        esac
        [ "${{current:0:1}}" = "-" ] || words=""
    fi
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -F _anprompt anprompt
"""


def bash(entries: list[Entry]) -> str:
    """The script for bash 4 and later."""
    values = [f'        "{key}") words="{" ".join(words)}" ;;' for key, words in _values(entries)]
    options = [f'            {e.name}) words="{" ".join(n for o in e.options for n in o.names)}" ;;' for e in entries]
    return _BASH.format(
        commands=" ".join(e.name for e in entries), values="\n".join(values), options="\n".join(options)
    )


def _values(entries: list[Entry]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """`command option` and `command command` (for its first argument) with the words that may follow."""
    for e in entries:
        if e.words:
            yield f"{e.name} {e.name}", e.words
        for option in e.options:
            if option.words:
                yield from ((f"{e.name} {name}", option.words) for name in option.names)


# --- zsh ------------------------------------------------------------------------------------------
_ZSH = """\
#compdef anprompt
# zsh completion of anprompt; try it with: source <(anprompt completion zsh)
_anprompt() {{
    local -a commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe -t commands command commands
        return
    fi
    local command="$words[2]"
    shift words
    (( CURRENT-- ))
    case "$command" in
{cases}
    esac
}}
if [ "$funcstack[1]" = "_anprompt" ]; then _anprompt "$@"; else compdef _anprompt anprompt; fi
"""


def zsh(entries: list[Entry]) -> str:
    """The script for zsh."""
    commands = "\n".join(f"        '{e.name}:{_zsh_text(e.help)}'" for e in entries)
    cases = []
    for e in entries:
        lines = [_zsh_option(name, option) for option in e.options for name in option.names]
        rest = f"'1:{e.name}:({' '.join(e.words)})' '*:file:_files'" if e.words else "'*:file:_files'"
        body = " \\\n".join(f"            {line}" for line in [*lines, rest])
        cases.append(f"    {e.name}) _arguments \\\n{body} ;;")
    return _ZSH.format(commands=commands, cases="\n".join(cases))


def _zsh_option(name: str, option: Option) -> str:
    value = f":value:({' '.join(option.words)})" if option.words else ":value:_files"
    return f"'*{name}[{_zsh_text(option.help)}]{value if option.takes else ''}'"


def _zsh_text(text: str) -> str:
    """Inside single quotes and brackets; a colon ends a description there."""
    return "".join("\\" + c if c in "[]:\\" else "’" if c == "'" else c for c in text)


# --- fish -----------------------------------------------------------------------------------------
def fish(entries: list[Entry]) -> str:
    """The script for fish."""
    lines = ["# fish completion of anprompt; try it with: anprompt completion fish | source"]
    for e in entries:
        lines.append(f"complete -c anprompt -n __fish_use_subcommand -f -a {e.name} -d {_fish_text(e.help)}")
    for e in entries:
        here = f"complete -c anprompt -n '__fish_seen_subcommand_from {e.name}'"
        if e.words:
            lines.append(f"{here} -a {_fish_text(' '.join(e.words))}")
        for option in e.options:
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            value = f" -x -a {_fish_text(' '.join(option.words))}" if option.words else " -r" if option.takes else ""
            lines.append(f"{here} {names}{value} -d {_fish_text(option.help)}")
    return "\n".join(lines) + "\n"


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
