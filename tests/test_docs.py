"""The pages are true: commands parse, links lead somewhere, tables are what the rows say, the site builds offline."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import LINK, PAGES, ROOT, anchors, commands, inline_code, python_blocks

from mmprune.cli.commands import cli
from mmprune.patterns import PATTERNS
from mmprune.strategies import TEN

COMMANDS = [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, text in PAGES.items()
            for words in commands(text)]
MENTIONED = [(page, code) for page, text in PAGES.items() for code in inline_code(text)]
OF_OTHERS = {"--break-system-packages", "--dry-run"}  # of pip, and of a bundle's ./run
MACHINE = re.compile(r"/(?:work|tmp|root|home|Users|mnt)/")
REPORTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob("benchmarks/results/*/report.md")}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with the files that the commands name, since options check that they exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("fleet.toml", "mine.toml", "results.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "photos").mkdir()


def command_of(words):
    """The click command that these words begin with, and the words after its name."""
    command = cli
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words, files):
    command, rest = command_of(words)
    assert command is not cli, f"there is no command {words[0]}"
    command.make_context(words[0], list(rest))


def options_of(command):
    """The names of its options, and of those below it."""
    own = {"--help", *(name for p in command.params for name in (*p.opts, *p.secondary_opts))}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


def test_commands_and_options_in_sentences_exist():
    of_scripts = {option for path in (*ROOT.glob("benchmarks/*.py"), *ROOT.glob("runtime/tools/*"))
                  for option in re.findall(r"--[a-z][\w-]+", path.read_text())}
    known = options_of(cli) | of_scripts | OF_OTHERS
    for page, code in MENTIONED:
        words = code.split()
        if words[:1] == ["mmprune"] and len(words) > 1 and words[1].islower():
            assert command_of(words[1:])[0] is not cli, f"{page}: `{code}`"
            known_here = options_of(command_of(words[1:])[0])
        else:
            known_here = known
        assert {w for w in words if w.startswith("--")} <= known_here, f"{page}: `{code}`"


def test_every_command_is_named():
    everything = "\n".join(PAGES.values())
    assert not [name for name in cli.commands if f"mmprune {name}" not in everything]


def test_words():
    words = PAGES["docs/words.md"]
    assert not [name for name in (*PATTERNS, *TEN) if f"`{name}`" not in words]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(re.sub(r"`[^`]*`", "", PAGES[page])):
        file, _, anchor = link.partition("#")
        if "://" in file:
            continue
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{page}: {link}"


@pytest.mark.parametrize("page", [*PAGES, *REPORTS])
def test_no_folder_of_our_machines(page):
    assert not MACHINE.findall({**PAGES, **REPORTS}[page])


@pytest.mark.parametrize("page", PAGES)
def test_python_compiles(page):
    for block in python_blocks(PAGES[page]):
        compile(block, page, "exec")


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_headline_is_the_newest_run_of_each_model_and_core(tables, monkeypatch):
    found = {"file": "max, mmrt int8", "accuracy": 0.9, "sparsity": 0.8, "p50_ms": 1.0, "busy": ""}
    row = {"model": "net", "epochs": 1, "dense": 0.91, "rival": {**found, "p50_ms": 2.0}, "cpu": "A CPU",
           "isa": ["avx2"], "started": "2026-01-02", "own": None, "over_own": found,
           "over_rival": {**found, "times": 2.0, "low": 1.9, "high": None}}
    older = {**row, "started": "2026-01-01", "dense": 0.5}
    nothing = {**row, "model": "other", "over_rival": None, "rival": None, "over_own": None}
    monkeypatch.setattr(tables, "read", lambda _name: [row, older, nothing])
    assert tables.headline().splitlines()[2:] == [
        "| net | **2.00** (1.90 or more) | 2.000 → 1.000 ms | 90.00 → 90.00% | A CPU, AVX2 |"]
    every = tables.at_equal_accuracy().splitlines()[2:]
    assert [line.split(" | ")[1] for line in every] == ["91.00%", "50.00%", "91.00%"]
    assert every[0].endswith("| - |") and every[2].endswith("| none | - | - |")


def test_tables_are_what_the_rows_say(tables):
    old = [page for page, text in PAGES.items() if tables.fill(text) != text]
    assert not old, "run python benchmarks/tables.py"
    marked = {name for text in PAGES.values() for name in re.findall(r"<!-- table: ([\w-]+) -->", text)}
    assert marked == set(tables.TABLES)


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    pages = [page.removeprefix("docs/") for page in PAGES if page != "README.md"]
    assert not [page for page in (*pages, *REPORTS) if f": {page}\n" not in menu]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if not importlib.util.find_spec("mkdocs") or not importlib.util.find_spec("mkdocstrings"):
        pytest.skip("needs the packages of the site: pip install 'mmprune[docs]'")
    out = tmp_path_factory.mktemp("site")
    # not --quiet, with which --strict sees no warning
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_has_every_page_and_every_command(site):
    pages = ["index", *(page.removeprefix("docs/").removesuffix(".md") for page in PAGES if page != "README.md")]
    assert not [page for page in pages if not (site / f"{page}.html").is_file()]
    shown = (site / "commands.html").read_text()
    assert not [name for name in cli.commands if f"mmprune {name}" not in shown]
    reference = (site / "python-reference.html").read_text()
    assert all(f'id="mmprune.{name}' in reference for name in ("prune", "Family.choose", "BuildOptions.keep"))


def test_the_site_loads_nothing_from_other_servers(site):
    """Links to others may be followed; nothing is loaded from them: no script, style, font or picture."""
    loads = re.compile(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^\s\">]+")
    found = {(path.name, text) for path in site.rglob("*.html") for text in loads.findall(path.read_text())}
    assert not {text for _, text in found if "canonical" not in text}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]+", styles)
