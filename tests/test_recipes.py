"""The recipes of the documentation, followed to the letter in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["adding_a_model", "adding_a_likelihood", "adding_a_prior"]


def blocks(page):
    """Kinds and texts of a page's blocks of code, in order."""
    return re.findall(r"^```(python|diff|bash)\n(.*?)^```", (ROOT / "docs" / f"{page}.md").read_text(), re.M | re.S)


def named_path(text):
    """Path that the first line of a block names, or None."""
    found = re.match(r"# (\S+/\S+\.\w+)\n", text)
    return found and found[1]


def insert(lines, text):
    """Put lines that begin with a plus behind the line before them, which must be there exactly once."""
    place = None
    for line in text.splitlines()[1:]:
        mark, content = line[:1], line[1:]
        if mark == "+":
            place += 1
            lines.insert(place, content)
        else:
            assert lines.count(content) == 1, f"{content!r} is there {lines.count(content)} times"
            place = lines.index(content)
    return lines


def follow(page, home):
    """Make a copy of the package in a folder, and do in it what a page says; return the code to try."""
    for name in ("skvae", "tests", "docs"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", home)
    tried = []
    for kind, text in blocks(page):
        path = named_path(text)
        if kind == "python" and path is None:
            tried.append(text)
        elif kind == "python":
            assert not (home / path).exists()
            (home / path).write_text(text.partition("\n")[2])
        elif kind == "diff":
            (home / path).write_text("\n".join(insert((home / path).read_text().splitlines(), text)) + "\n")
    return "\n".join(tried)


def run(command, home):
    environment = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_a_recipe_works_as_it_stands(page, tmp_path):
    code = follow(page, tmp_path)
    assert code
    (tmp_path / "tried.py").write_text(f"import skvae\n\nassert skvae.__file__.startswith({str(tmp_path)!r})\n{code}")
    run([sys.executable, "tried.py"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_recipe_makes_passes_the_common_tests(page, tmp_path):
    follow(page, tmp_path)
    for kind, text in blocks(page):
        if kind == "bash":
            options = ["-n", "0", "-p", "no:cacheprovider", "-q"]
            arguments = re.findall(r'"[^"]*"|\S+', text.removeprefix("python -m pytest"))
            out = run([sys.executable, "-m", "pytest", *options, *(argument.strip('"') for argument in arguments)], tmp_path)
            assert re.search(r"\d+ passed", out)


def test_every_recipe_is_listed():
    index = (ROOT / "docs" / "index.md").read_text()
    assert all(f"({page}.md)" in index and f"\n{page}\n" in index for page in PAGES)
