"""Limits of the architecture: what must stay small, and what must stay where it is."""

import ast
import re
from pathlib import Path

import pytest
from cases import CASES

import skvae
from skvae.estimators._base import BaseAutoEncoder

ROOT = Path(skvae.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
HOOKS = {"_make_table", "_module_arguments", "_auto_training", "_prepare", "_measure", "_concerns"}
MOST_LINES, MOST_METHODS, MOST_PRIVATE = 700, 25, 8
STORAGE = re.compile(r"\b(issparse|toarray)\b")
DIALECT = re.compile(r"\bto" r"ld\b", re.IGNORECASE)  # in two parts, so that this line does not say it


def own_name(path):
    return str(path.relative_to(ROOT))


def functions(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def is_self(node):
    return isinstance(node, ast.Name) and node.id == "self"


def changes_of_self(function):
    """Lines of a function that set or delete an attribute of `self`, or an entry of one."""
    lines = []
    for node in ast.walk(function):
        is_changed = isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))
        if is_changed and isinstance(node, (ast.Attribute, ast.Subscript)):
            owner = node.value
            while isinstance(owner, (ast.Attribute, ast.Subscript)):
                owner = owner.value
            if is_self(owner):
                lines.append(node.lineno)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr", "vars"):
            lines += [node.lineno for argument in node.args[:1] if is_self(argument)]
    return lines


@pytest.mark.parametrize("path", FILES, ids=own_name)
def test_hooks_return_what_they_find(path):
    hooks = [function for function in functions(path.read_text()) if function.name in HOOKS]
    assert {hook.name: lines for hook in hooks if (lines := changes_of_self(hook))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "self.a = 1",
        "self.a += 1",
        "self.a: int = 1",
        "self.a['b'] = 1",
        "a, self.b = 1, 2",
        "del self.a",
        "vars(self).update(a=1)",
    ],
)
def test_a_hook_that_changes_the_estimator_would_be_found(line):
    (function,) = functions(f"def _measure(self, run):\n    {line}")
    assert changes_of_self(function) == [2]


def test_a_fit_calls_the_hooks_and_nothing_else():
    """The one other method checks rows: scikit-learn has its own functions note there how many columns X has, and their names."""
    source = (ROOT / "estimators" / "_fit.py").read_text()
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) in ("draft", "self.draft", "estimator")
    }
    assert called == HOOKS | {"_check_rows"}


def test_the_base_class_is_small():
    methods = [name for name, value in vars(BaseAutoEncoder).items() if callable(value) or isinstance(value, property)]
    assert len(methods) <= MOST_METHODS, methods


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fitted_estimators_have_few_private_attributes(case, X):
    private = [name for name in vars(case.make().fit(X)) if name.startswith("_")]
    assert len(private) <= MOST_PRIVATE, private


@pytest.mark.parametrize("path", FILES, ids=own_name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=own_name)
def test_few_files_know_how_rows_are_stored(path):
    if own_name(path) != "data/sources.py" and "_checks" not in path.parts:
        assert STORAGE.findall(path.read_text()) == []


def test_nothing_is_said_in_a_dialect():
    texts = [ROOT.parent / "README.md"]
    for folder in ("skvae", "tests", "docs", "examples"):
        texts += [path for path in (ROOT.parent / folder).rglob("*") if path.suffix in (".py", ".md", ".ipynb", ".toml", ".txt")]
    lines = [f"{path}:{i}" for path in texts for i, line in enumerate(path.read_text().splitlines(), 1) if DIALECT.search(line)]
    assert lines == []
