"""What is no table, no code and no weight is refused in words, and rows of any size have finite scores."""

import numpy as np
import pandas as pd
import pytest
from cases import CASES
from scipy import sparse

from skvae import (
    CVAE,
    TDVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderClusterer,
    AutoencoderImputer,
    CVAEClassifier,
    CVAEResampler,
    VAETransformer,
)

pytestmark = pytest.mark.usefixtures("one_core")
X = np.random.default_rng(0).normal(size=(20, 5))
Y = np.arange(20) % 2
QUICK = {"max_epochs": 1, "random_state": 0}
OTHERS = {
    "detector": lambda X: AnomalyDetector(AutoEncoder(2, **QUICK)).fit(X),
    "clusterer": lambda X: AutoencoderClusterer(2, estimator=AutoEncoder(2, **QUICK)).fit(X),
    "imputer": lambda X: AutoencoderImputer(VAETransformer(2, **QUICK)).fit(X),
    "classifier": lambda X: CVAEClassifier(CVAE(2, **QUICK)).fit(X, Y),
    "resampler": lambda X: CVAEResampler(CVAE(2, **QUICK)).fit_resample(X, np.arange(20) % 3 == 0),
}
NO_TABLES = {
    "None": (lambda: None, "X is None; it must be a table of numbers"),
    "class": (lambda: np.ndarray, "X is the class 'ndarray'"),
    "frame class": (lambda: pd.DataFrame, "X is the class 'DataFrame'"),
    "function": (lambda: len, "X is the function 'len'"),
    "lambda": (lambda: lambda: X, "X is the function '<lambda>'"),
    "generator": (lambda: (row for row in X), r"X is of type 'generator'.*np\.asarray\(list\(X\)\)"),
    "iterator": (lambda: iter(X.tolist()), "X is of type 'list_iterator'"),
    "set": (lambda: {1.0, 2.0}, "X is of type 'set'"),
    "dict": (lambda: {"a": [1.0]}, r"X is of type 'dict'.*pd\.DataFrame\(X\)"),
    "text": (lambda: "rows.csv", r"X is of type 'str'.*pd\.read_csv\(X\)"),
}


@pytest.mark.parametrize("name", NO_TABLES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_estimator_refuses_what_is_no_table(case, name):
    make, message = NO_TABLES[name]
    with pytest.raises(TypeError, match=message):
        case.make().fit(make())
    with pytest.raises(TypeError, match=message):
        fitted(case).transform(make())


@pytest.mark.parametrize("name", NO_TABLES)
@pytest.mark.parametrize("other", OTHERS)
def test_estimators_of_estimators_refuse_it_too(other, name):
    make, message = NO_TABLES[name]
    with pytest.raises(TypeError, match=message):
        OTHERS[other](make())


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"a": 1.0}, {"a": 2.0}], TypeError, r"entries of type 'dict', such as \{'a': 1.0\}.*pd\.DataFrame\(X\)"),
        ([{1.0}, {2.0}], TypeError, "entries of type 'set'"),
        (["a", "b"], ValueError, "entries of type 'str', such as 'a'"),
        ([b"a", b"b"], ValueError, "entries of type 'bytes'"),
        ([[1.0, 2.0], "ab"], ValueError, "entries of type 'str', such as 'ab'"),
    ],
    ids=["dicts", "sets", "text", "bytes", "one of text"],
)
def test_lists_of_other_things(rows, error, message):
    with pytest.raises(error, match=message):
        AutoEncoder(1, **QUICK).fit(rows)
    with pytest.raises(error, match=message):
        AutoencoderImputer(VAETransformer(1, **QUICK)).fit(rows)


def objects(parts, make=np.asarray):
    values = np.empty(len(parts), dtype=object)
    values[:] = list(parts)
    return make(values)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (objects(X.reshape(20, 1, 5, 1)), r"X is an array of objects, .* np.stack\(X\) is one of the shape \(20, 1, 5, 1\)"),
        (objects(X.tolist()), r"np.stack\(X\) is one of the shape \(20, 5\)"),
        (objects(X, pd.Series), r"np.stack\(X\) is one of the shape \(20, 5\)"),
        (objects([X[0], X[1, :3]]), r"have the same shape, but some have \(5,\) and some \(3,\)"),
        (objects([X[0], None]), r"have the same shape, but some have \(5,\) and some \(\)"),
    ],
    ids=["images", "lists", "series", "other lengths", "not all"],
)
def test_arrays_of_arrays_are_to_be_stacked(rows, message):
    for call in (AutoEncoder(2, **QUICK).fit, AutoEncoder(2, **QUICK).fit(X).transform):
        with pytest.raises(ValueError, match=message):
            call(rows)


def test_columns_of_one_name():
    frame = pd.DataFrame(X, columns=list("aabcb"))
    with pytest.raises(ValueError, match="X has several columns of the name 'a' and 1 more; names must differ"):
        AutoEncoder(2, **QUICK).fit(frame)
    with pytest.raises(ValueError, match="X has several columns of the name 'a'"):
        AutoEncoder(2, **QUICK).fit(pd.DataFrame(X, columns=list("abcde"))).transform(frame)


# -- masked entries ---------------------------------------------------------------------------------------------------


def test_masked_entries_are_never_read():
    mask = np.zeros((20, 5), dtype=bool)
    mask[3, 4] = True
    vector, model = np.ma.masked_array(np.ones(20), mask[:, 4]), AutoEncoder(2, **QUICK)
    for call in (
        lambda: model.fit(X, sample_weight=vector),
        lambda: model.fit(X).score(X, sample_weight=vector),
        lambda: CVAE(2, **QUICK).fit(X, vector),
        lambda: CVAE(2, **QUICK).fit(X, np.ma.masked_array(X, mask)),
        lambda: CVAEClassifier(CVAE(2, **QUICK)).fit(X, np.ma.masked_array(Y, mask[:, 4])),
        lambda: AutoEncoder(2, early_stopping=True, **QUICK).fit(X, groups=np.ma.masked_array(Y, mask[:, 4])),
        lambda: model.fit(X).inverse_transform(np.ma.masked_array(X[:, :2], mask[:, 3:])),
        lambda: VQVAE(code_prior=None, n_codes=2, **QUICK).fit(X).decode(np.ma.masked_array(np.zeros((20, 2), int), mask[:, 3:])),
    ):
        with pytest.raises(ValueError, match="has 1 masked entries"):
            call()
    unmasked = np.ma.masked_array(np.ones(20), False)
    assert model.fit(X, sample_weight=unmasked).score(X, sample_weight=unmasked) == pytest.approx(model.fit(X).score(X))


def test_masked_ends_of_sequences_are_padding():
    sequences = np.random.default_rng(0).normal(size=(20, 6, 2))
    is_behind = np.broadcast_to(np.arange(6)[:, np.newaxis] >= 2 + np.arange(20)[:, np.newaxis, np.newaxis] % 5, (20, 6, 2))
    padded, masked = np.where(is_behind, np.nan, sequences), np.ma.masked_array(sequences, is_behind)
    model = TDVAE(n_components=2, **QUICK)
    expected = model.fit(padded).transform(padded)
    np.testing.assert_array_equal(model.transform(masked), expected)
    np.testing.assert_array_equal(model.fit(masked).transform(padded), expected)
    with pytest.raises(ValueError, match=r"X\[0\] at step 2. In a list, sequences end where their arrays end"):
        model.transform([*masked])
    inside = np.ma.masked_array(sequences, np.broadcast_to(np.arange(6)[:, np.newaxis] == 2, sequences.shape))
    with pytest.raises(ValueError, match="Input X contains NaN inside a sequence"):
        model.fit(inside)


def test_sparse_sequences_of_one_dimension():
    with pytest.raises((ValueError, TypeError), match=r"X has shape \(5,\)|Sparse data was passed"):
        TDVAE(n_components=2, **QUICK).fit(sparse.coo_array(X[0]))


# -- sizes ------------------------------------------------------------------------------------------------------------


_FITTED: dict = {}


def fitted(case):
    """One fit of a case for all tests, none of which changes it."""
    if str(case) not in _FITTED:
        _FITTED[str(case)] = case.make().fit(X)
    return _FITTED[str(case)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_of_any_size_have_finite_scores_and_codes(case):
    model = fitted(case)
    for size in (1e20, 1e160, 1e307):
        rows = size * np.clip(X[:4], -1.0, 1.0)
        results = [model.transform(rows), model.reconstruct(rows), model.score_samples(rows)]
        methods = ["neighbors", "mahalanobis", "reconstruction"] if case.cls is AutoEncoder else ["auto"]
        for method in methods:
            results += [
                f(rows, **({} if method == "auto" else {"method": method})) for f in (model.score_anomaly, model.explain_anomaly)
            ]
        assert all(np.isfinite(found).all() for found in results), size


@pytest.mark.parametrize("case", CASES, ids=str)
def test_codes_that_cannot_be_decoded(case):
    model = fitted(case)
    Z = np.zeros((2, model.n_components_))
    assert np.isfinite(model.inverse_transform(Z + 1e25)).all()
    with pytest.raises(ValueError, match=r"Z has entries as large as 1e\+300; codes are decoded in single precision"):
        model.inverse_transform(Z - 1e300)
    with pytest.raises(TypeError, match="Z is of type 'dict'"):
        model.inverse_transform({"a": 1})
    with pytest.raises(TypeError, match="Z is None"):
        model.inverse_transform(None)
