"""README and guides name what there is: commands, options, modules, names, files, links and their anchors."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer

from toolorch_integrations.cli import app

ROOT = Path(__file__).parent.parent
PAGES = {str(page.relative_to(ROOT)): page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
FOLDERS = ("benchmarks", "docs", "examples", "packaging", "rl", "scripts", "serving", "tests", "toolorch_integrations")


def found(pattern: str, flags: int = re.MULTILINE) -> list[tuple[str, Any]]:
    """Return what a pattern finds in all pages, each with the page's name."""
    texts = ((name, re.sub(r"\\\n\s*", " ", page.read_text())) for name, page in PAGES.items())
    return [(name, match) for name, text in texts for match in dict.fromkeys(re.findall(pattern, text, flags))]


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "line"), found(r"^ *(toolorch [a-z][^\n]*)"))
def test_commands_take_the_options_that_they_are_given(page: str, line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"{page}: {line} names no command"
    context = command.context_class(command, info_name=line)
    if "..." in line:
        command.make_parser(context).parse_args(words)  # an option that there is not is an error here, too
    else:
        command.make_context(line, words)


@pytest.mark.parametrize(("page", "names"), found(r"from (toolorch_[\w.]+ import [\w, ]+)"))
def test_what_is_imported_is_there(page: str, names: str) -> None:
    module, _, imported = names.partition(" import ")
    for name in imported.split(","):
        assert hasattr(importlib.import_module(module), name.strip()), f"{page}: from {names}"


@pytest.mark.parametrize(("page", "name"), found(r"`(toolorch_(?:integrations|rl|serving)(?:\.\w+)+)`"))
def test_modules_and_their_names_are_there(page: str, name: str) -> None:
    path = ROOT / {"toolorch_rl": "rl", "toolorch_serving": "serving"}.get(name.partition(".")[0], "")
    parts = name.split(".")
    for number, part in enumerate(parts):
        path /= part
        if not path.is_dir() and not path.with_suffix(".py").is_file():
            rest = importlib.import_module(".".join(parts[:number]))
            for attribute in parts[number:]:
                rest = getattr(rest, attribute)
            return


@pytest.mark.parametrize(("page", "code"), found(r"^ *```python\n(.*?)```", re.MULTILINE | re.DOTALL))
def test_python_can_be_read(page: str, code: str) -> None:
    compile(textwrap.dedent(code), page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


@pytest.mark.parametrize(("page", "link"), found(r"\]\((?!https?:)([^)\s]+)\)"))
def test_links_lead_somewhere(page: str, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = PAGES[page].parent / file if file else PAGES[page]
    assert target.exists()
    assert not anchor or anchor in anchors(target)


@pytest.mark.parametrize(("page", "path"), found(rf"(?<![\w/.])((?:{'|'.join(FOLDERS)})/[\w./-]*\w)"))
def test_files_are_there(page: str, path: str) -> None:
    assert (ROOT / path).exists() or (PAGES[page].parent / path).exists()


@pytest.mark.parametrize(("page", "module"), found(r"python -m ((?:benchmarks|examples|toolorch)[\w.]+)"))
def test_modules_that_are_run_are_there(page: str, module: str) -> None:
    top = {"toolorch_rl": "rl/", "toolorch_serving": "serving/"}.get(module.partition(".")[0], "")
    path = ROOT / (top + module.replace(".", "/"))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize(("page", "target"), found(r"`make ([a-z-]+)`|^ +make ([a-z-]+)"))
def test_make_has_the_targets(page: str, target: tuple[str, str]) -> None:
    assert re.search(rf"^{target[0] or target[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
