"""`fedlite completion`: scripts by which bash, zsh and fish complete commands, options and names.

A script is plain text with all words in it. So a completion starts no Python, and `fedlite --help` is as fast
as ever; after an update the script is written anew.
"""

import contextlib
import importlib
import io
from collections.abc import Iterator
from enum import EnumType, StrEnum
from typing import Annotated, Any, NamedTuple

import typer

from broker.cli.commands import COMMANDS, load
from broker.cli.console import command


class Shell(StrEnum):
    """Shells with a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        names: such as --out.
        values: that it takes; empty: any; None: it takes none.
        line: of its help.
    """

    names: tuple[str, ...]
    values: tuple[str, ...] | None
    line: str


class Place(NamedTuple):
    """What may follow the words of a command.

    Attributes:
        words: each with a line about it: commands below, or names that it takes.
        options: of the command.
    """

    words: dict[str, str]
    options: list[Option]


NAMES = {
    "scenario": "scenarios.loading.shipped:shipped",
    "scenarios": "scenarios.loading.shipped:shipped",
    "what": "scenarios.loading.shipped:shipped",
    "study": "scenarios.loading.shipped:shipped:study",
    "task": "scenarios.tasks:TASKS",
    "trace": "sim.network.links.traces:shipped_traces",
}
"""Where the names are that an argument may be, by its own: module:mapping, or module:function[:argument]."""


@command
def completion(shell: Annotated[Shell, typer.Argument(help="Whose script.")]) -> None:
    """Write a script by which a shell completes commands, options and the names of scenarios.

    bash: fedlite completion bash > ~/.local/share/bash-completion/completions/fedlite

    zsh: fedlite completion zsh > ~/.fedlite.zsh, and in ~/.zshrc: source ~/.fedlite.zsh

    fish: fedlite completion fish > ~/.config/fish/completions/fedlite.fish
    """
    places = dict(_places())
    typer.echo(_fish(places) if shell is Shell.FISH else _bash(places, for_zsh=shell is Shell.ZSH), nl=False)


def _places() -> Iterator[tuple[str, Place]]:
    """Give each command by its words; of one whose packages are not installed no options are known."""
    lines = {name: each.line for name, each in COMMANDS.items()}
    top = {name: line for name, line in lines.items() if " " not in name}
    yield "", Place(top, [Option(("--version",), None, "Print the version.")])
    for name in COMMANDS:
        below = {full.partition(" ")[2]: line for full, line in lines.items() if full.startswith(f"{name} ")}
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                found = load(name)
        except SystemExit:  # it says which extra it lacks
            yield name, Place(below, [])
        else:
            yield from _below(name, found, below)


def _below(name: str, found: Any, words: dict[str, str]) -> Iterator[tuple[str, Place]]:
    """Give a command of typer, or a group and all commands in it."""
    if hasattr(found, "commands"):
        helps = {each: command.get_short_help_str(100) for each, command in found.commands.items()}
        yield name, Place(helps, [])
        for each, command in found.commands.items():
            yield from _below(f"{name} {each}", command, {})
        return
    kinds: dict[str, list[Any]] = {"argument": [], "option": []}
    for each in found.params:
        kinds[each.param_type_name].append(each)
    named = {word: "" for each in kinds["argument"] for word in _choices(each) or _named(each.name)}
    yield name, Place(words | named, [_option(each) for each in kinds["option"] if not each.hidden])


def _option(found: Any) -> Option:
    names = (*found.opts, *found.secondary_opts)
    values = None if found.is_flag else _choices(found) or tuple(_named(found.name))
    return Option(names, values, " ".join((found.help or "").split()))


def _choices(parameter: Any) -> tuple[str, ...]:
    """Give the values of an enumeration."""
    kind: Any = parameter.type_descriptor.annotation
    if not isinstance(kind, EnumType):
        return ()
    values: list[Any] = list(kind)
    return tuple(str(each.value) for each in values)


def _named(argument: str) -> list[str]:
    if argument not in NAMES:
        return []
    module, attribute, *given = NAMES[argument].split(":")
    known: Any = getattr(importlib.import_module(module), attribute)
    return list(known(*given) if callable(known) else known)


_HELP = Option(("--help",), None, "Show the help.")

_BASH = """\
_fedlite() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= word words= options= at
  COMPREPLY=()
  for ((at = 1; at < COMP_CWORD; at++)); do
    word=${COMP_WORDS[at]}
    case $word in -*) continue;; esac
    case $path${path:+ }$word in
      @PATHS@) path=$path${path:+ }$word;;
      *) break;;
    esac
  done
  case $path:$prev in
@VALUES@
  esac
  case $path in
@PLACES@
  esac
  case $cur in
    -*) words=$options;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _fedlite fedlite
"""


def _bash(places: dict[str, Place], *, for_zsh: bool) -> str:
    """Write the script of bash; zsh reads the same through its own bashcompinit."""
    values, known = [], []
    for path, place in places.items():
        for option in place.options:
            if option.values:
                asked = "|".join(f"'{path}:{name}'" for name in option.names)
                found = f'COMPREPLY=($(compgen -W "{" ".join(option.values)}" -- "$cur"))'
                values.append(f"    {asked}) {found}; return;;")
        options = " ".join(name for option in place.options for name in option.names)
        known.append(f"    '{path}') words='{' '.join(place.words)}' options='{options} --help';;")
    text = _BASH.replace("@PATHS@", "|".join(f"'{path}'" for path in places if path))
    text = text.replace("@VALUES@", "\n".join(values)).replace("@PLACES@", "\n".join(known))
    if not for_zsh:
        return text
    return "autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n" + text


_FISH = """\
set -g __fedlite_paths @PATHS@
function __fedlite_at
  set -l path
  for word in (commandline -opc)[2..-1]
    string match -q -- '-*' $word; and continue
    set -l longer (string join ' ' $path $word)
    contains -- $longer $__fedlite_paths; or break
    set path $longer
  end
  test "$path" = "$argv[1]"
end
"""


def _fish(places: dict[str, Place]) -> str:
    lines = []
    for path, place in places.items():
        at = f"complete -c fedlite -n {_quoted(f'__fedlite_at {_quoted(path)}')}"
        lines += [f"{at} -a {_quoted(word)} -d {_quoted(line)}" for word, line in place.words.items()]
        for option in (*place.options, _HELP):
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
            )
            match option.values:
                case None:
                    value = ""
                case ():
                    value = " -r"
                case values:
                    value = f" -x -a {_quoted(' '.join(values))}"
            lines.append(f"{at} {names}{value} -d {_quoted(option.line)}")
    return _FISH.replace("@PATHS@", " ".join(map(_quoted, filter(None, places)))) + "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
