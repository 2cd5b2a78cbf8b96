"""Hooks of MkDocs: bring to the site what lies outside docs/, the tables of results, and the help of every command.

A page links to a file of the repository as it would anywhere, `../benchmarks/results/default/report.md`. Here that file
gets the same place below docs/, and the link loses one step up. README.md is the first page.
"""

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
BROUGHT = ("CHANGELOG.md", "LICENSE", "SECURITY.md", "runtime/FORMAT.md", "benchmarks/results/**/*.md",
           "benchmarks/results/**/*.png")
LINK = re.compile(r"(\]\()([^)#:\s]+)")  # not to an anchor of the same page, nor to another server

COMMANDS = "<!-- commands -->"  # a page's mark for them
COLUMNS = 100

sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import tables  # noqa: E402

from mmprune.cli.commands import cli  # noqa: E402


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    for pattern in BROUGHT:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_kept: Any) -> str:
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    markdown = LINK.sub(lambda m: m[1] + link_in_site(source, page.file.src_uri, m[2]), tables.fill(markdown))
    context = click.Context(cli, info_name="mmprune", **cli.context_settings)
    return markdown.replace(COMMANDS, "\n\n".join(help_of(cli, context)))


def help_of(command: click.Command, context: click.Context) -> Iterator[str]:
    """The help of a command and of those below it, each with its heading."""
    context.terminal_width = COLUMNS
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.commands[name]
            yield from help_of(below, click.Context(below, info_name=name, parent=context))


def link_in_site(source: str, page: str, link: str) -> str:
    """A link of the file `source` of the repository, as a link of the site's page."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(page) or ".")
