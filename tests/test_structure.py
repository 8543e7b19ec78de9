import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from conftest import ALL_ESTIMATORS
from sklearn.base import BaseEstimator
from skorch import NeuralNet  # noqa: TID251

import skvae

ROOT = Path(skvae.__file__).parent
STOREYS = ("functional", "data", "modules", "runtime", "inference", "training", "estimators")
LEAVES = ("_spec", "warnings")  # stand beside the house: everything may import them, they import nothing of it
FILES = sorted(ROOT.rglob("*.py"))


def level(parts):
    """Storey of a module, given its dotted name as parts without the package's own."""
    return STOREYS.index(parts[0]) if parts and parts[0] in STOREYS else len(STOREYS)


def imported_modules(source):
    """Dotted names of all modules that a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module)
            if node.module == "skvae":  # the package itself, or one of its parts
                names.discard("skvae")
                names.update(
                    f"skvae.{alias.name}" if (ROOT / alias.name).is_dir() or (ROOT / f"{alias.name}.py").is_file() else "skvae"
                    for alias in node.names
                )
    return names


def upward_imports(path, source):
    own = path.relative_to(ROOT).with_suffix("").parts
    found = []
    for name in imported_modules(source):
        package, *parts = name.split(".")
        if package != "skvae" or (parts and parts[0] in LEAVES):
            continue
        if own[0] in LEAVES or level(tuple(parts)) > level(own):
            found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    assert upward_imports(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("functional/x.py", "from skvae.modules import Batch"),
        ("modules/x.py", "import skvae.training.net"),
        ("modules/x.py", "def f():\n    from skvae import estimators"),
        ("training/x.py", "from skvae.estimators import AutoEncoder"),
        ("training/x.py", "from skvae import AutoEncoder"),
        ("estimators/x.py", "from skvae.pipeline import sample"),
        ("warnings.py", "from skvae.functional import gaussian_kl"),
    ],
)
def test_an_upward_import_would_be_found(file, source):
    assert upward_imports(ROOT / file, source)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_storeys_know_only_the_libraries_they_may(path):
    libraries = {name.split(".")[0] for name in imported_modules(path.read_text())}
    storey = path.relative_to(ROOT).parts[0]
    if storey != "training":
        assert "skorch" not in libraries
    if storey in ("functional", "modules"):
        assert "sklearn" not in libraries
    if storey == "data":
        assert "torch" not in libraries


def package_classes():
    """Every class that a module of the package defines, private modules included."""
    for info in pkgutil.walk_packages(skvae.__path__, "skvae."):
        module = importlib.import_module(info.name)
        yield from (cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == info.name)


def test_there_is_one_training_loop():
    assert [cls.__name__ for cls in package_classes() if issubclass(cls, NeuralNet)] == ["AutoEncoderNet"]


def public_estimators():
    """Estimators in public modules, as scikit-learn's `all_estimators` looks for them."""
    return {
        cls
        for cls in package_classes()
        if issubclass(cls, BaseEstimator)
        and not issubclass(cls, NeuralNet)
        and not cls.__name__.startswith("_")
        and not any(part.startswith("_") for part in cls.__module__.split("."))
        and not inspect.isabstract(cls)
    }


def test_every_public_estimator_is_discovered_and_exported():
    found = public_estimators()
    assert {"AutoEncoder", "VAETransformer"} <= {cls.__name__ for cls in found}
    assert {cls.__name__ for cls in found} <= set(skvae.__all__)
    assert {cls for cls in found if cls.__module__.startswith("skvae.estimators.")} >= set(ALL_ESTIMATORS)


def test_everything_that_is_exported_exists():
    assert sorted(set(skvae.__all__)) == sorted(skvae.__all__)
    assert all(hasattr(skvae, name) for name in skvae.__all__)
