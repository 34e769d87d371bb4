"""The manual pages redis-certauth(1) and redis-certauth-COMMAND(1), out of the commands' own help:
`python -m control.cli.manual FOLDER`. The Debian package is made with them."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from control.cli.helping import EXAMPLES, PROGRAM, words_of
from control.cli.table import main

FILES = """\
.SH FILES
.TP
~/.config/redis-certauth/config.toml
Profiles: where the API is, and who asks. See redis-certauth-context(1).
.SH EXIT STATUS
0 where it is done; 1 where the API refuses or cannot be reached, or where nobody could be asked; 2
where the command line, the profile or the file is wrong; 3 where a change is made and a server does
not hold it yet.
"""


def escaped(text: str) -> str:
    """Text that troff prints as it stands, hyphens too."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in text.split("\n"))


def below(context: click.Context) -> Iterator[click.Context]:
    """The commands of a group."""
    if isinstance(group := context.command, click.Group):
        for name in group.list_commands(context):
            if (one := group.get_command(context, name)) is not None and not one.hidden:
                yield click.Context(one, info_name=name, parent=context)


def leaves(context: click.Context) -> Iterator[click.Context]:
    """Each command below this one, or this one."""
    if not isinstance(context.command, click.Group):
        yield context
    for one in below(context):
        yield from leaves(one)


def page(context: click.Context) -> str:
    """Of one command of the program, with all below it."""
    command = context.command
    short = command.get_short_help_str(200).rstrip(".")
    parts = [header(f"{PROGRAM}-{context.info_name}", short)]
    is_group = isinstance(command, click.Group)
    if is_group:
        parts += [".SH DESCRIPTION", paragraphs(command.help or ""), ".SH COMMANDS"]
    for one in leaves(context):
        words = " ".join(words_of(one))
        pieces = " ".join(one.command.collect_usage_pieces(one))
        title = escaped(f"{PROGRAM} {words} {pieces}")
        parts += [f'{".SS" if is_group else ".SH"} "{title}"', paragraphs(one.command.help or "")]
        parts += options(one)
        for example in EXAMPLES.get(words, ()):
            parts.append(f".PP\n.RS\n.nf\n{escaped(f'{PROGRAM} {example}')}\n.fi\n.RE")
    return "\n".join([*parts, FILES, f".SH SEE ALSO\n{PROGRAM}(1)\n"])


def whole(context: click.Context) -> str:
    """Of the program: which commands there are."""
    text = context.command.help or ""
    parts = [header(PROGRAM, text.partition("\n")[0].rstrip(".")), ".SH COMMANDS"]
    for one in below(context):
        title = escaped(f"{PROGRAM}-{one.info_name}")
        short = escaped(one.command.get_short_help_str(200))
        parts.append(f".TP\n\\fB{title}\\fR(1)\n{short}")
    return "\n".join([*parts, ".SH ENVIRONMENT", paragraphs(text), FILES])


def header(title: str, short: str) -> str:
    """The title of a manual page in roff, and its NAME."""
    return (f'.TH "{escaped(title.upper())}" 1 "" "{PROGRAM}"\n.SH NAME\n{escaped(title)} \\- '
            f"{escaped(short)}")  # fmt: skip


def paragraphs(text: str) -> str:
    """A help text in roff."""
    blocks = inspect.cleandoc(text).replace("\b\n", "").split("\n\n")
    return "\n.PP\n".join(escaped(block) for block in blocks)


def options(context: click.Context) -> Iterator[str]:
    """The options of a command in roff, each with its environment variable."""
    for one in context.command.get_params(context):
        if isinstance(one, click.Option) and (record := one.get_help_record(context)):
            told = "" if one.show_envvar or not one.envvar else f"  [env var: {one.envvar}]"
            yield f".TP\n\\fB{escaped(record[0])}\\fR\n{escaped(record[1] + told)}"


def write(folder: Path) -> None:
    """All of them."""
    folder.mkdir(parents=True, exist_ok=True)
    program = click.Context(main, info_name=PROGRAM)
    (folder / f"{PROGRAM}.1").write_text(whole(program))
    for one in below(program):
        (folder / f"{PROGRAM}-{one.info_name}.1").write_text(page(one))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
