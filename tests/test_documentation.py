"""What is written of everything that the package exports."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate
from sklearn.base import BaseEstimator

import skvae

IGNORED = {
    "GL01",  # text on the opening line
    "ES01",  # no extended summary
    "EX01",  # examples are asked for below, of classes and functions
    "SA01",  # see also: of classes
    "SS06",  # one-line summary
    "RT03",  # description of what is returned
    "GL03",  # blank lines
    "PR06",  # spelling of types
    "PR07",  # parameters without a description: `y`
    "PR08",
    "PR09",
    "SA04",
    "RT02",
    "RT04",
    "RT05",
}
CLASSES = [name for name in skvae.__all__ if inspect.isclass(getattr(skvae, name))]


def public_members(name):
    """Methods and properties of a class, with its dotted name before theirs, but without those of other libraries."""
    cls = getattr(skvae, name)
    for member in dir(cls):
        value = getattr(cls, member)
        owner = value.fget if isinstance(value, property) else value
        if not member.startswith("_") and getattr(owner, "__module__", "").startswith("skvae."):
            yield f"{name}.{member}"


MEMBERS = [member for name in CLASSES for member in public_members(name)]
NAMES = skvae.__all__ + MEMBERS


def documented(name):
    """What a dotted name stands for, and its docstring's sections."""
    cls, _, member = name.partition(".")
    value = getattr(skvae, cls)
    value = getattr(value, member) if member else value
    return value, NumpyDocString(inspect.getdoc(value))


def parameters(name):
    """Pairs of a parameter and its documented type, and a docstring's leftovers: those on one side alone."""
    value, sections = documented(name)
    taken = {
        ("**" if parameter.kind is parameter.VAR_KEYWORD else "") + key: parameter
        for key, parameter in inspect.signature(value).parameters.items()
        if key != "self"
    }
    types = {key: entry.type for entry in sections["Parameters"] for key in entry.name.split(", ")}
    return [(taken[key], types[key]) for key in taken.keys() & types.keys()], taken.keys() ^ types.keys()


def is_property(name):
    return isinstance(documented(name)[0], property)


def test_members_are_found():
    assert {"AnomalyDetector.p_values", "AnomalyDetector.offset_", "AutoencoderImputer.impute", "Net.build"} <= set(NAMES)
    assert {"AutoEncoder.transform", "CVAEClassifier.predict_proba", "CVAEResampler.fit_resample", "step_score"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_follow_numpydoc(name):
    assert [(code, text) for code, text in validate(f"skvae.{name}")["errors"] if code not in IGNORED] == []


@pytest.mark.parametrize("name", [name for name in NAMES if not is_property(name)])
def test_every_parameter_is_documented_with_its_default(name):
    pairs, leftovers = parameters(name)
    assert leftovers == set()
    for parameter, kind in pairs:
        written = re.search(r", default=(.*)$", kind)
        if parameter.default is inspect.Parameter.empty:
            assert written is None, parameter
        elif kind != "None":  # of a parameter that is there to be ignored
            assert written, parameter
            value = eval(written[1], {"np": np})
            assert value == parameter.default or repr(value) == repr(parameter.default), parameter


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLASSES and not is_property(name)])
def test_what_is_returned_is_documented(name):
    value, sections = documented(name)
    returns_nothing = inspect.signature(value).return_annotation in (None, "None")
    assert bool(sections["Returns"]) != returns_nothing


@pytest.mark.parametrize("name", skvae.__all__)
def test_classes_and_functions_have_examples(name):
    value, sections = documented(name)
    assert ">>>" in "\n".join(sections["Examples"])
    if inspect.isclass(value) and issubclass(value, BaseEstimator):
        assert sections["Attributes"]
        assert sections["See Also"]
        assert sections["References"]


@pytest.mark.parametrize("name", [name for name in CLASSES if issubclass(getattr(skvae, name), BaseEstimator)])
def test_html_representations_link_to_the_documentation(name):
    assert f"skvae.readthedocs.io/en/stable/api.html#skvae.{name}" in getattr(skvae, name)()._repr_html_()


def test_the_reference_lists_everything():
    listed = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    assert sorted(re.findall(r"^\.\. auto\w+:: skvae\.(\w+)$", listed, re.M)) == sorted(skvae.__all__)
