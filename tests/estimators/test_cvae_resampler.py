import inspect
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import in_words, slow
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvae import CVAE, AutoEncoder, CVAEResampler, Gaussian, LinearPath
from skvae.data.kinds import columns_of
from skvae.estimators._marginals import ClassShape, Draws, TableShape

pytestmark = pytest.mark.usefixtures("one_core")


@parametrize_with_checks([CVAEResampler()])
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [checks.check_dataframe_column_names_consistency, checks.check_param_validation],
    ids=lambda check: check.__name__,
)
def test_checks_that_sklearn_keeps_to_itself(check):
    check("CVAEResampler", CVAEResampler())


def test_documentation_names_every_attribute(quick):
    X, y = table()
    fitted = quick()
    fitted.fit_resample(pd.DataFrame(X, columns=list("abc")), y)
    attributes = {name for name in dir(fitted) if name.endswith("_") and not name.startswith("_")}
    for name in attributes:
        assert re.search(rf"^    {name} : ", CVAEResampler.__doc__, re.M), name


@pytest.fixture
def quick():
    """Make a resampler whose model trains in a fraction of a second."""

    def make(**params):
        model = CVAE(n_components=1, hidden_layer_sizes=(16,), max_epochs=20)
        return CVAEResampler(model, **{"random_state": 0, **params})

    return make


def table(counts=(60, 30, 10), seed=0):
    """Rows of classes that lie apart."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    order = rng.permutation(len(y))
    return (rng.normal(size=(len(y), 3)) + 2.0 * y[:, np.newaxis])[order], y[order]


# -- how many rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "new", "sizes"),
    [
        ("auto", {1: 30, 2: 50}, [60, 60, 60]),
        ("not majority", {1: 30, 2: 50}, [60, 60, 60]),
        ("minority", {2: 50}, [60, 30, 60]),
        ("not minority", {0: 0, 1: 30}, [60, 60, 10]),
        ("all", {0: 0, 1: 30, 2: 50}, [60, 60, 60]),
        ({2: 25, 0: 61}, {0: 1, 2: 15}, [61, 30, 25]),
        ({2: 10}, {2: 0}, [60, 30, 10]),
        (lambda y: {2: int((y == 1).sum())}, {2: 20}, [60, 30, 30]),
    ],
    ids=in_words,
)
def test_classes_grow_as_they_are_asked_to(quick, strategy, new, sizes):
    X, y = table()
    resampler = quick(sampling_strategy=strategy)
    X_new, y_new = resampler.fit_resample(X, y)
    assert resampler.sampling_strategy_ == new
    assert np.bincount(y_new).tolist() == sizes
    np.testing.assert_array_equal(X_new[: len(X)], X)
    np.testing.assert_array_equal(y_new[: len(y)], y)
    assert (np.diff(y_new[len(y) :]) >= 0).all()
    assert np.isfinite(X_new).all()
    assert quick(sampling_strategy=strategy).fit(X, y).sampling_strategy_ == new


@pytest.mark.parametrize(("ratio", "n_new"), [(0.5, 10), (1.0, 40), (1, 40), (0.251, 0)])
def test_a_float_is_the_ratio_of_two_classes(quick, ratio, n_new):
    X, y = table((20, 80)) if isinstance(ratio, int) else table((80, 20))
    resampler = quick(sampling_strategy=ratio)
    _, y_new = resampler.fit_resample(X, y)
    rare = int(np.bincount(y).argmin())
    expected = int(ratio * 80) - 20
    assert resampler.sampling_strategy_ == {rare: expected}
    assert np.bincount(y_new)[rare] == 20 + expected


@pytest.mark.parametrize(("counts", "ratio", "n_new"), [((22, 15), 15 / 22, 0), ((100, 10), 0.29, 19), ((49, 1), 1 / 49, 0)])
def test_a_ratio_is_what_it_says_before_rounding(quick, counts, ratio, n_new):
    assert int(ratio * counts[0]) < counts[1] + n_new
    assert quick(sampling_strategy=ratio).fit(*table(counts)).sampling_strategy_ == {1: n_new}


def test_balanced_classes_stay_as_they_are(quick):
    X, y = table((30, 30))
    for strategy in ("auto", "minority", 1.0):
        X_new, y_new = quick(sampling_strategy=strategy).fit_resample(X, y)
        np.testing.assert_array_equal(X_new, X)
        np.testing.assert_array_equal(y_new, y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sampling_strategy": 0.5}, "sampling_strategy=0.5 is a ratio of two classes, but y has 3"),
        ({"sampling_strategy": {7: 50}}, r"labels that y does not have: \[7\]; those of y are \[0, 1, 2\]"),
        ({"sampling_strategy": {2: 5}}, "asks for 5 rows of label 2, of which y has 10; rows are only added"),
        ({"sampling_strategy": {2: 20.5}}, "asks for 20.5 rows of label 2; it must be an integer"),
        ({"sampling_strategy": lambda y: 3}, "returned what is no dict: 3"),
        ({"sampling_strategy": lambda y: {2: 5}}, "asks for 5 rows of label 2"),
        ({"sampling_strategy": "most"}, "'sampling_strategy' parameter of CVAEResampler"),
        ({"sampling_strategy": 1.5}, "'sampling_strategy' parameter of CVAEResampler"),
        ({"guard": 0.6}, "'guard' parameter of CVAEResampler"),
        ({"estimator": AutoEncoder()}, "'estimator' parameter of CVAEResampler must be an instance of .*CVAE"),
        ({"estimator": CVAE(condition_columns=[0])}, "CVAEResampler conditions its model on the labels y; leave"),
    ],
    ids=in_words,
)
def test_parameters_that_cannot_be(quick, params, message):
    for method in ("fit", "fit_resample"):
        with pytest.raises(ValueError, match=message):
            getattr(quick().set_params(**params), method)(*table())


def test_a_ratio_below_the_present_one(quick):
    with pytest.raises(
        ValueError, match=r"0.1 is below the ratio of the classes as they are, 20 to 80 rows; rows are only added"
    ):
        quick(sampling_strategy=0.1).fit_resample(*table((80, 20)))
    with pytest.raises(ValueError, match=r"sampling_strategy=0\.2499999 is below.*20 to 80 rows"):
        quick(sampling_strategy=np.float64(0.2499999)).fit_resample(*table((80, 20)))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (np.linspace(0, 1, 100), "Unknown label type: continuous"),
        (np.zeros(100, dtype=int), "y has 1 class, 0; resampling balances at least 2"),
        (np.zeros((100, 2), dtype=int), "each row must have a single one"),
        (np.full((100, 2), 2), "y should be a 1d array"),
        (np.zeros(99, dtype=int), "inconsistent numbers of samples"),
        (np.where(np.arange(100) == 7, np.nan, 1.0), "y has 1 missing, NaN or infinite entries, the first at position 7"),
        ([1, "a"] * 50, "y has labels of the types int and str, which cannot be sorted"),
    ],
    ids=["none", "continuous", "constant", "multilabel", "matrix", "short", "nan", "mixed"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_labels_that_cannot_be(quick, y, message):
    for method in ("fit", "fit_resample"):
        with pytest.raises(ValueError, match=message):
            getattr(quick(), method)(table()[0], y)


# -- what the new rows are like ---------------------------------------------------------------------------------------


def test_new_rows_look_like_those_of_their_class():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [600, 150])
    mixing = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 2.0]])
    X = rng.normal(size=(750, 3)) @ mixing + np.where(y[:, np.newaxis] == 1, [3.0, -1.0, 10.0], 0.0)
    X_new, y_new = CVAEResampler(CVAE(linear_path=LinearPath(1.0)), random_state=0).fit_resample(X, y)
    drawn = X_new[750:]
    assert (y_new[750:] == 1).all()
    assert len(drawn) == 450
    np.testing.assert_allclose(drawn.mean(axis=0), [3.0, -1.0, 10.0], atol=0.4)
    np.testing.assert_allclose(drawn.std(axis=0), [1.0, 1.0, 2.0], rtol=0.25)  # with noise, which a mean would lack
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize("n_rare", [1, *slow(3)])
def test_classes_of_a_few_rows(n_rare):
    X, y = table((60, n_rare))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of one row, all that is known is where it lies
        resamplers = [
            CVAEResampler(CVAE(linear_path=LinearPath(1.0)), guard=0.0 if n_rare == 1 else 0.2, random_state=seed)
            for seed in range(3)
        ]
        (X_new, y_new), *others = [resampler.fit_resample(X, y) for resampler in resamplers]
    assert np.bincount(y_new).tolist() == [60, 60]
    own, other = X[y == 1].mean(axis=0), X[y == 0].mean(axis=0)
    drawn = np.mean([rows[len(X) :].mean(axis=0) for rows in (X_new, *(rows for rows, _ in others))], axis=0)
    assert np.linalg.norm(drawn - own) < 0.2 * np.linalg.norm(own - other)


def test_columns_of_whole_numbers_and_of_few_values_stay_what_they_are(quick):
    rng = np.random.default_rng(0)
    X, y = table((80, 20))
    X = np.column_stack(
        [X[:, 0], y ^ (rng.random(100) < 0.1), rng.choice([1, 3, 7], 100), np.round(50 * X[:, 1]), np.full(100, 4.5)]
    )
    X[:, 2] = np.where(y == 1, 7, X[:, 2])
    X_new, _ = quick().fit_resample(X, y)
    new = X_new[100:]
    assert set(new[:, 1]) <= {0.0, 1.0}
    assert set(new[:, 2]) <= {1.0, 3.0, 7.0}
    assert (new[:, 3] == np.round(new[:, 3])).all()
    assert new[:, 3].min() >= X[:, 3].min()
    assert new[:, 3].max() <= X[:, 3].max()
    assert not np.isin(new[:, 3], X[:, 3]).all()
    assert (new[:, 4] == 4.5).all()
    assert not np.isin(new[:, 0], np.round(new[:, 0])).any()


def mixed_table(n_rows=600, seed=0):
    """Columns of many kinds, all of which depend on the class, and what they are."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n_rows) < 0.3).astype(int)
    kinds = rng.choice(4, n_rows, p=[0.6, 0.3, 0.09, 0.01])
    job = np.where(y == 1, kinds, (kinds + 1) % 4)
    columns = {
        **{f"job_{k}": job == k for k in range(4)},
        "age": np.round(40 + 12 * rng.normal(size=n_rows) + 5 * y).clip(18),
        "rare": rng.random(n_rows) < np.where(y == 1, 0.05, 0.01),
        "often": rng.random(n_rows) < np.where(job == 0, 0.9, 0.3),
        "income": rng.lognormal(0.5 + y, 1.0),
        "gain": np.where(rng.random(n_rows) < 0.85, 0.0, rng.lognormal(8.0, 1.0, n_rows)),
        "children": rng.poisson(0.7, n_rows),
        "level": rng.choice([0.5, 2.0, 2.5], n_rows, p=[0.1, 0.2, 0.7]),
    }
    return pd.DataFrame({name: np.asarray(values, dtype=float) for name, values in columns.items()}), y


@pytest.mark.parametrize("shuffled", [False, True])
def test_new_rows_hold_what_columns_hold_as_often_as_their_class_does(shuffled):
    frame, y = mixed_table()
    if shuffled:
        frame = frame.sample(frac=1, axis=1, random_state=0)
    model = CVAE(prior="conditional", hidden_layer_sizes=(16,), max_epochs=10, linear_path=LinearPath(1.0))
    X_new, y_new = CVAEResampler(model, sampling_strategy={0: 1100, 1: 1100}, guard=0.0, random_state=0).fit_resample(frame, y)
    for label in (0, 1):
        new, own = X_new[600:][y_new[600:] == label], frame[y == label]
        jobs = new.filter(like="job_")
        assert set(np.unique(jobs)) == {0.0, 1.0}
        assert (jobs.sum(axis=1) == 1).all()
        few = [*jobs, "rare", "often"]
        error = np.sqrt(own[few].mean() * (1 - own[few].mean()) / len(new)) + 1.0 / len(own)
        assert (np.abs(new[few].mean() - own[few].mean()) < 3.5 * error).all()
        for name in ("children", "level"):
            assert set(new[name]) <= set(frame[name])
            shares = (frame_or_new[name].value_counts(normalize=True) for frame_or_new in (own, new))
            assert sum(np.abs(np.subtract(*(share.reindex(frame[name].unique()).fillna(0.0) for share in shares)))) < 0.1
        assert (new["age"] == new["age"].round()).all()
        assert (new >= frame.min()).all(axis=None)
        assert (new <= frame.max()).all(axis=None)
        for name in ("age", "income", "gain"):
            np.testing.assert_allclose(
                new[name].quantile([0.25, 0.5, 0.75]), own[name].quantile([0.25, 0.5, 0.75]), rtol=0.25, err_msg=name
            )
        assert (new["gain"] == 0).mean() == pytest.approx((own["gain"] == 0).mean(), abs=0.05)
        # What depends on each other goes on to.
        assert new["often"][new["job_0"] == 1].mean() > new["often"][new["job_0"] == 0].mean() + 0.08


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli", "poisson"])
def test_new_rows_of_zeros_and_ones_by_any_likelihood(likelihood):
    frame, y = mixed_table()
    frame = frame.filter(regex="job|rare|often")
    model = CVAE(1, hidden_layer_sizes=(8,), max_epochs=3, linear_path=LinearPath(1.0), likelihood=likelihood)
    X_new, _ = CVAEResampler(model, sampling_strategy={1: 1000}, guard=0.0, random_state=0).fit_resample(frame, y)
    new, own = X_new[600:], frame[y == 1]
    assert (new.filter(like="job_").sum(axis=1) == 1).all()
    np.testing.assert_allclose(new.mean(), own.mean(), atol=0.05)


@pytest.mark.parametrize(
    "form", [np.asarray, sparse.csr_array, lambda X: X.astype(bool), lambda X: X.astype(int).astype("category")]
)
def test_columns_that_are_one_hot_together_stay_so_in_any_form(quick, form):
    frame, y = mixed_table()
    frame = frame.filter(like="job_")
    given = form(frame)
    X_new, _ = quick(guard=0.0).fit_resample(given, y)
    new = (X_new.toarray() if sparse.issparse(X_new) else np.asarray(X_new, dtype=float))[600:]
    assert len(new) > 100
    assert (new.sum(axis=1) == 1).all()
    assert set(np.unique(new)) == {0.0, 1.0}


def places(n_rows=600, seed=0):
    """Numbers, then cities one-hot, each with its country; whether it lies in the south is one column; and jobs, of any city."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n_rows) < 0.2).astype(int)
    city = np.where(y == 1, rng.choice(12, n_rows, p=rng.dirichlet(np.full(12, 3.0))), rng.integers(12, size=n_rows))
    job = rng.integers(4, size=n_rows)
    numbers = rng.normal(size=(n_rows, 2)) + (city % 4)[:, np.newaxis] + y[:, np.newaxis]
    return np.column_stack([numbers, np.eye(12)[city], np.eye(4)[city % 4], city >= 6, np.eye(4)[job]]), y


PLACES = {"array": np.asarray, "sparse": sparse.csr_array, "integers": lambda X: np.round(X).astype(int), "frame": pd.DataFrame}


@pytest.mark.parametrize("form", PLACES)
def test_categories_that_never_come_together_do_not(form):
    X, y = places()
    order = np.random.default_rng(1).permutation(X.shape[1]) if form == "frame" else np.arange(X.shape[1])
    model = CVAE(prior="conditional", n_components=2, hidden_layer_sizes=(16,), max_epochs=5, linear_path=LinearPath(1.0))
    found, _ = CVAEResampler(model, random_state=0).fit_resample(PLACES[form](X[:, order]), y)
    new = np.asarray(found.toarray() if sparse.issparse(found) else found, dtype=float)[len(X) :][:, np.argsort(order)]
    assert len(new) > 300
    city, country, south, job = new[:, 2:14].argmax(1), new[:, 14:18].argmax(1), new[:, 18], new[:, 19:].argmax(1)
    assert (new[:, 2:14].sum(1) == 1).all()
    np.testing.assert_array_equal(country, city % 4)
    np.testing.assert_array_equal(south, city >= 6)
    assert len(np.unique(12 * job + city)) > 1.05 * len(np.unique(X[y == 1][:, 2:], axis=0))  # jobs are free
    for part in (slice(2, 14), slice(14, 18), slice(19, None)):
        assert np.abs(new[:, part].mean(0) - X[y == 1][:, part].mean(0)).sum() / 2 < 0.08


@pytest.mark.parametrize("n_rare", [1, 5])
def test_categories_of_a_class_of_a_few_rows_go_together(n_rare):
    X, y = places()
    kept = (y == 0) | (np.cumsum(y) <= n_rare)
    model = CVAE(1, hidden_layer_sizes=(8,), max_epochs=3, linear_path=LinearPath(1.0))
    X_new, _ = CVAEResampler(model, guard=0.0, random_state=0).fit_resample(X[kept], y[kept])
    new = X_new[kept.sum() :]
    np.testing.assert_array_equal(new[:, 14:18].argmax(1), new[:, 2:14].argmax(1) % 4)
    np.testing.assert_array_equal(new[:, 18], new[:, 2:14].argmax(1) >= 6)


def test_where_no_category_is_left_they_are_those_of_a_row():
    """Of three features any two come together as zeros, but not all three, with none of which a fourth one then could come."""
    kinds = np.array([[0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 2], *([k, k, k, d] for k in (2, 3) for d in range(3))])
    of_rows = kinds[np.random.default_rng(0).integers(len(kinds), size=900)]
    X = np.column_stack([np.eye(n)[own] for n, own in zip((4, 4, 4, 3), of_rows.T, strict=True)])
    shape = TableShape(X, columns_of(X))
    assert [len(group) for group in shape.groups] == [4, 4, 4, 3]
    draws = Draws(X, np.full(X.shape, 0.25))
    new = ClassShape(shape, X[::3], draws).settle(draws, np.random.RandomState(0))
    found = np.stack([new[:, group].argmax(1) for group in shape.groups], axis=1)
    assert (new.sum(1) == 4).all()
    assert {tuple(row) for row in found.tolist()} == {tuple(row) for row in kinds.tolist()}


@pytest.mark.parametrize("n_rare", [1, 3])
def test_a_class_of_a_few_rows_may_have_what_others_have(n_rare):
    frame, y = mixed_table()
    kept = (y == 0) | (np.cumsum(y) <= n_rare)
    model = CVAE(1, hidden_layer_sizes=(8,), max_epochs=3, linear_path=LinearPath(1.0))
    X_new, _ = CVAEResampler(model, guard=0.0, random_state=0).fit_resample(frame[kept], y[kept])
    new, own = X_new[kept.sum() :], frame[kept & (y == 1)]
    assert (new.filter(like="job_").sum(axis=1) == 1).all()
    assert (new >= frame[kept].min()).all(axis=None)
    held = own.filter(like="job_").sum() > 0
    assert 0.5 * n_rare / (n_rare + 1) < new.filter(like="job_").loc[:, held].sum(axis=1).mean() < 1.0


def test_zeros_of_sparse_matrices_stay_as_many(quick):
    rng = np.random.default_rng(0)
    X = np.where(rng.random((200, 6)) < 0.2, rng.lognormal(size=(200, 6)), 0.0)
    X_new, _ = quick(guard=0.0).fit_resample(sparse.csr_array(X), np.arange(200) % 5 == 0)
    assert X_new[200:].min() == 0.0
    assert X_new[200:].nnz / (120 * 6) == pytest.approx(0.2, abs=0.06)


def test_rare_classes_weigh_more(quick, monkeypatch):
    fit, seen = CVAE.fit, []

    def spy(self, X, y=None, *, condition=None, sample_weight=None):
        seen.append(np.bincount(y, weights=sample_weight))
        return fit(self, X, y, condition=condition, sample_weight=sample_weight)

    monkeypatch.setattr(CVAE, "fit", spy)
    quick().fit_resample(*table((64, 16)))
    np.testing.assert_allclose(seen, [[8.0, 4.0]])


@pytest.mark.slow
def test_resampling_helps_where_a_class_is_rare():
    X, y = load_digits(return_X_y=True)
    y = (y == 8).astype(int)
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:900], order[900:]
    train = np.concatenate([train[y[train] == 0], train[y[train] == 1][:15]])

    def score(X_train, y_train):
        model = LogisticRegression(max_iter=2000).fit(X_train / 16, y_train)
        return balanced_accuracy_score(y[test], model.predict(X[test] / 16))

    assert score(*CVAEResampler(random_state=0).fit_resample(X[train], y[train])) > score(X[train], y[train]) + 0.1


# -- the guard --------------------------------------------------------------------------------------------------------


def memorizing(monkeypatch, X, y, share, noise=1e-6):
    """Make models return a share of rows that are training rows with hardly any noise; the others are honest."""
    honest = CVAE.sample

    def sample(self, n_samples=None, y=None, return_y=False, *, mean=False, random_state=None):
        assert not mean
        drawn = honest(self, n_samples, y, random_state=random_state)
        rng = np.random.default_rng(random_state)
        copied = rng.random(n_samples) < share
        drawn[copied] = X[rng.integers(len(X), size=copied.sum())] + noise * rng.normal(size=(copied.sum(), X.shape[1]))
        return drawn

    monkeypatch.setattr(CVAE, "sample", sample)


def closeness(X, X_new):
    """Distance of new rows to the nearest training row over its own to the nearest other one, in standard deviations."""
    scale = X.std(axis=0)
    index = NearestNeighbors().fit(X / scale)
    distance, nearest = index.kneighbors(X_new / scale, 1)
    return distance[:, 0] / index.kneighbors(X[nearest[:, 0]] / scale, 2)[0][:, 1]


def test_copies_are_drawn_again(quick, monkeypatch):
    X, y = table((60, 20))
    memorizing(monkeypatch, X, y, share=0.5)
    resampler = quick(guard=0.0)
    X_new, _ = resampler.fit_resample(X, y)
    assert (closeness(X, X_new[80:]) < 0.01).sum() > 10
    assert resampler.n_rejected_ == 0
    resampler = quick()
    X_new, y_new = resampler.fit_resample(X, y)
    assert closeness(X, X_new[80:]).min() > 0.15  # the model weights rows, and its standard deviations are a little different
    assert 20 < resampler.n_rejected_ < 100
    assert np.bincount(y_new).tolist() == [60, 60]


def test_copies_that_remain_are_reported(quick, monkeypatch):
    X, y = table((60, 20))
    memorizing(monkeypatch, X, y, share=1.0)
    resampler = quick()
    with pytest.warns(UserWarning, match=r"40 of 40 new rows lie closer to a training row than guard=0.2 allows, after 10 draws"):
        _, y_new = resampler.fit_resample(X, y)
    assert resampler.n_rejected_ == 9 * 40
    assert np.bincount(y_new).tolist() == [60, 60]


def test_a_model_that_learned_one_row_by_heart_is_noticed():
    X, y = table((60, 1))
    model = CVAE(n_components=1, hidden_layer_sizes=(32,), likelihood=Gaussian(1e-3), learning_rate=0.01, max_epochs=300)
    resampler = CVAEResampler(model, guard=0.5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        resampler.fit_resample(X, y)
    assert resampler.n_rejected_ > 50


def test_rows_of_whole_numbers_are_guarded_after_rounding(quick, monkeypatch):
    X, y = table((60, 20))
    X = np.round(20 * X)
    memorizing(monkeypatch, X, y, share=0.5, noise=0.1)
    resampler = quick()
    X_new, _ = resampler.fit_resample(X, y)
    assert resampler.n_rejected_ > 20
    assert closeness(X, X_new[80:]).min() > 0.15


def test_rows_that_occur_several_times_may_be_met(quick):
    X = np.tile([[0, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]], (25, 1))
    y = np.repeat([0, 1], [80, 20])
    resampler = quick()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X_new, _ = resampler.fit_resample(X, y)
    assert set(map(tuple, X_new[100:].tolist())) <= set(map(tuple, np.indices((2, 2, 2)).reshape(3, -1).T.tolist()))


# -- forms of the data ------------------------------------------------------------------------------------------------


def test_data_frames_keep_columns_and_types(quick):
    X, y = table()
    frame = pd.DataFrame(X, columns=["a", "b", "c"], index=np.arange(100) + 5)
    frame["single"] = frame["a"].astype("float32")
    frame["whole"] = (100 * X[:, 0]).astype("int64")
    frame["nullable"] = pd.array(np.arange(100) % 7, dtype="Int64")
    frame["truth"] = y > 1
    frame["code"] = pd.Categorical(np.arange(100) % 3 * 2)
    labels = pd.Series(np.array(["x", "y", "z"])[y], index=frame.index, name="label", dtype="category")
    resampler = quick()
    X_new, y_new = resampler.fit_resample(frame, labels)
    pd.testing.assert_series_equal(X_new.dtypes, frame.dtypes)
    pd.testing.assert_frame_equal(X_new.iloc[:100], frame.reset_index(drop=True))
    pd.testing.assert_series_equal(y_new.iloc[:100], labels.reset_index(drop=True))
    assert not X_new.isna().any(axis=None)
    assert y_new.value_counts().to_dict() == {"x": 60, "y": 60, "z": 60}
    assert list(resampler.feature_names_in_) == list(frame.columns)
    assert resampler.sampling_strategy_ == {"y": 30, "z": 50}


CODES = np.array(["01", "2.50", "9"])
TYPED = {
    "categories": lambda y: pd.Categorical(np.arange(len(y)) * 37 % 50 * 10),  # many, and with gaps
    "categories of floats": lambda y: pd.Categorical(np.round(np.sin(np.arange(len(y))), 2)),
    "categories of text": lambda y: pd.Categorical(CODES[y], categories=["9", "01", "2.50", "4"], ordered=True),
    "text": lambda y: pd.Series(CODES[y], dtype="string"),
    "str": lambda y: pd.Series(CODES[y], dtype="str"),
    "text as objects": lambda y: pd.Series(CODES[y], dtype=object),
    "integers as objects": lambda y: pd.Series(np.arange(len(y)).tolist(), dtype=object),
}


def drawn_codes(quick, X, y):
    """Draw new rows of numbers, of which the second is that of the code."""
    X_new, _ = quick(guard=0.0).fit_resample(np.column_stack([X[:, 0], CODES[y].astype(float)]), y)
    assert len(set(X_new[100:, 1])) > 1
    return X_new[100:, 1].tolist()


@pytest.mark.parametrize("kind", TYPED)
def test_columns_that_are_no_numbers_keep_to_their_entries(quick, kind):
    X, y = table()
    frame = pd.DataFrame({"a": X[:, 0], "typed": TYPED[kind](y)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = quick(guard=0.0).fit_resample(frame, y)[0]["typed"][100:]
    assert new.dtype == frame["typed"].dtype
    assert set(new) <= set(frame["typed"])
    assert {type(value) for value in new} == {type(value) for value in frame["typed"]}
    if "text" in kind:  # the class says which it is; in an order, noise lies between neighbors
        right = new.astype(str).astype(float).to_numpy() == np.array(drawn_codes(quick, X, y))
        assert right.mean() > 0.95 if kind == "categories of text" else right.all()


def test_objects_that_are_floats_are_continuous(quick):
    X, y = table()
    expected, _ = quick().fit_resample(X, y)
    for given in (X.astype(object), pd.DataFrame(X, dtype=object)):
        np.testing.assert_array_equal(np.asarray(quick().fit_resample(given, y)[0], dtype=float), expected)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["9", "01", "2.50", "4"])], ids=str)
def test_columns_of_polars_that_are_no_numbers_keep_to_their_entries(quick, dtype):
    X, y = table()
    frame = pl.DataFrame({"a": X[:, 0], "typed": pl.Series(CODES[y]).cast(dtype)})
    X_new, _ = quick(guard=0.0).fit_resample(frame, y)
    assert X_new.schema == frame.schema
    assert X_new[:100].equals(frame)
    assert set(X_new["typed"].cast(pl.String)) == set(CODES)
    assert X_new["typed"][100:].cast(pl.String).cast(pl.Float64).to_list() == drawn_codes(quick, X, y)


def test_text_in_arrays_keeps_to_its_entries(quick):
    X, y = table()
    for given in (np.column_stack([np.round(X[:, 0], 3), CODES[y]]), np.column_stack([X[:, 0], CODES[y].astype(object)])):
        X_new, _ = quick(guard=0.0).fit_resample(given, y)
        assert X_new.dtype == given.dtype
        np.testing.assert_array_equal(X_new[:100], given)
        assert set(X_new[:, 1]) == set(CODES)
    assert X_new[100:, 1].astype(float).tolist() == drawn_codes(quick, X, y)


def test_polars_data_frames_keep_columns_and_types(quick):
    X, y = table()
    frame = pl.DataFrame({"a": X[:, 0], "whole": (100 * X[:, 1]).astype(int), "truth": y > 1})
    X_new, y_new = quick().fit_resample(frame, pl.Series("label", y))
    assert X_new.schema == frame.schema
    assert X_new[:100].equals(frame)
    assert (y_new.name, y_new.dtype, len(y_new)) == ("label", pl.Series(y).dtype, 180)
    assert len(frame) == 100


@pytest.mark.parametrize(
    "form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.coo_array], ids=lambda form: form.__name__
)
def test_sparse_matrices_stay_sparse(quick, form):
    X, y = table()
    X = np.round(X).clip(0)
    given = form(X)
    X_new, _ = quick().fit_resample(given, y)
    assert (type(X_new), X_new.format, X_new.shape) == (type(given), given.format, (180, 3))
    np.testing.assert_array_equal(X_new.toarray()[:100], X)
    np.testing.assert_array_equal(X_new.toarray(), quick().fit_resample(X, y)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, bool])
def test_arrays_keep_their_type(quick, dtype):
    X, y = table()
    X = (X > 2).astype(dtype) if dtype is bool else (5 * X).astype(dtype)
    X_new, y_new = quick(guard=0.0).fit_resample(X, y.astype(np.int16))
    assert X_new.dtype == dtype
    assert y_new.dtype == np.int16


@pytest.mark.parametrize(
    "names", [np.array(["no", "yes"]), np.array([False, True]), np.array([3.0, 7.0])], ids=lambda v: v.dtype.name
)
def test_labels_keep_their_type(quick, names):
    X, y = table((60, 20))
    X_new, y_new = quick().fit_resample(X, names[y])
    assert y_new.dtype == names.dtype
    np.testing.assert_array_equal(X_new, quick().fit_resample(X, y)[0])
    assert (y_new == names[1]).sum() == 60


def test_lists_come_back_as_lists(quick):
    X, y = load_iris(return_X_y=True)
    X_new, y_new = quick().fit_resample(X[:120].tolist(), y[:120].tolist())
    assert isinstance(X_new, list)
    assert isinstance(y_new, list)
    expected = quick().fit_resample(X[:120], y[:120])
    np.testing.assert_array_equal(X_new, expected[0])
    np.testing.assert_array_equal(y_new, expected[1])


IN_FORMS = {
    "column": lambda y: y[:, np.newaxis],
    "frame": lambda y: pd.DataFrame({"label": y.astype("int16")}, index=np.arange(len(y)) + 5),
    "polars": lambda y: pl.DataFrame({"label": y}),
    "one-hot": lambda y: np.eye(3)[y],
    "one-hot list": lambda y: np.eye(3, dtype=int)[y].tolist(),
    "one-hot frame": lambda y: pd.DataFrame(np.eye(3, dtype=bool)[y], columns=list("xyz")),
}


@pytest.mark.parametrize("form", IN_FORMS)
def test_labels_come_back_in_their_form(quick, form):
    X, y = table()
    given = IN_FORMS[form](y)
    expected, labels = quick().fit_resample(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X_new, y_new = quick().fit_resample(X, given)
    np.testing.assert_array_equal(X_new, expected)
    if form == "column":  # as in imbalanced-learn
        np.testing.assert_array_equal(y_new, labels)
        return
    assert type(y_new) is type(given)
    np.testing.assert_array_equal(np.asarray(y_new), np.asarray(IN_FORMS[form](labels)))
    if isinstance(given, pd.DataFrame):
        pd.testing.assert_series_equal(y_new.dtypes, given.dtypes)
        assert y_new.index.equals(pd.RangeIndex(180))


def test_names_of_columns_go_through(quick):
    X, y = table()
    resampler = quick().fit(pd.DataFrame(X, columns=list("abc")), y)
    assert list(resampler.get_feature_names_out()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "name",
    ["check_samplers_list", "check_samplers_pandas", "check_samplers_multiclass_ova", "check_sampler_get_feature_names_out"],
)
@pytest.mark.filterwarnings("ignore:The code of CVAE has collapsed")
def test_checks_of_imbalanced_learn(name):
    of_imblearn = pytest.importorskip("imblearn.utils.estimator_checks")
    getattr(of_imblearn, name)("CVAEResampler", CVAEResampler(CVAE(1, max_epochs=1), random_state=0))


@pytest.mark.filterwarnings("ignore:The code of CVAE has collapsed")
def test_images_stay_images():
    digits = load_digits(n_class=2)
    images, y = digits.images[:, np.newaxis], digits.target
    kept = (y == 0) | (np.arange(len(y)) % 4 == 0)
    X_new, y_new = CVAEResampler(CVAE(max_epochs=2), random_state=0).fit_resample(images[kept], y[kept])
    assert X_new.shape[1:] == (1, 8, 8)
    assert len(np.unique(np.bincount(y_new))) == 1


# -- as a sampler -----------------------------------------------------------------------------------------------------


def test_it_has_what_pipelines_of_imbalanced_learn_ask_for():
    assert {"fit", "fit_resample"} <= set(dir(CVAEResampler))
    assert not {"transform", "fit_transform", "predict"} & set(dir(CVAEResampler))
    first, *others = np.split(np.array(list(inspect.signature(CVAEResampler.fit_resample).parameters.values())), [3])
    assert [parameter.name for parameter in first] == ["self", "X", "y"]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in np.concatenate(others))


def test_it_works_in_pipelines_of_imbalanced_learn(quick):
    make_pipeline = pytest.importorskip("imblearn.pipeline").make_pipeline
    X, y = table()
    pipe = make_pipeline(quick(), LogisticRegression()).fit(X, y)
    reference = LogisticRegression().fit(*quick().fit_resample(X, y))
    np.testing.assert_allclose(pipe.predict_proba(X), reference.predict_proba(X))


def test_fit_only_looks(quick):
    X, y = table()
    resampler = quick().fit(X, y)
    assert (resampler.n_features_in_, resampler.sampling_strategy_) == (3, {1: 30, 2: 50})
    assert not hasattr(resampler, "estimator_")


@pytest.mark.filterwarnings("ignore:The code of CVAE has collapsed")
def test_random_state_decides(quick):
    X, y = table()

    def resampled(outer, inner):
        return CVAEResampler(CVAE(1, max_epochs=2, random_state=inner), random_state=outer).fit_resample(X, y)[0]

    np.testing.assert_array_equal(resampled(0, None), resampled(0, 1))
    np.testing.assert_array_equal(resampled(None, 1), resampled(1, None))
    np.testing.assert_array_equal(resampled(np.random.RandomState(3), None), resampled(np.random.RandomState(3), None))
    assert (resampled(0, None) != resampled(1, None)).any()


def test_pickles_and_clones(quick):
    X, y = table()
    resampler = quick()
    X_new, _ = resampler.fit_resample(X, y)
    again = pickle.loads(pickle.dumps(resampler))
    assert again.sampling_strategy_ == resampler.sampling_strategy_
    np.testing.assert_array_equal(again.estimator_.transform(X), resampler.estimator_.transform(X))
    copy = clone(resampler)
    assert not hasattr(copy, "estimator_")
    np.testing.assert_array_equal(copy.fit_resample(X, y)[0], X_new)


def test_neither_data_nor_model_are_changed(quick):
    X, y = table()
    X_before, y_before = X.copy(), y.copy()
    resampler = quick()
    resampler.fit_resample(X, y)
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    assert not hasattr(resampler.estimator, "module_")
    assert resampler.estimator.random_state is None


def test_a_failure_leaves_the_resampler_as_it_was(quick, monkeypatch):
    X, y = table()
    resampler = quick()
    resampler.fit_resample(X, y)
    before = dict(vars(resampler))

    def fail(*args, **kwargs):
        raise RuntimeError("no sample")

    for bad in ((X, X[:, 0]), (np.full_like(X, np.nan), y), (X, np.zeros(100))):
        for method in ("fit", "fit_resample"):
            with pytest.raises(ValueError, match=r".{20}"):
                getattr(resampler, method)(*bad)
    monkeypatch.setattr(CVAE, "sample", fail)
    with pytest.raises(RuntimeError, match="no sample"):
        resampler.fit_resample(X[:, :2], y)
    assert vars(resampler) == before


def test_ensembles_of_imbalanced_learn_know_its_kind(quick):
    """BalancedBaggingClassifier decides by it what it asks of a sampler, and so must clones say it."""
    assert clone(quick())._sampling_type == "over-sampling"


@pytest.mark.slow
def test_new_rows_of_a_real_table_lie_where_the_class_does():
    X, y = load_breast_cancer(return_X_y=True)
    kept = (y == 1) | (np.cumsum(y == 0) <= 15)
    X, y = X[kept] / X[kept].std(axis=0), y[kept]
    X_new, y_new = CVAEResampler(random_state=0).fit_resample(X, y)
    assert np.bincount(y_new).tolist() == [357, 357]
    new, rare, common = X_new[len(X) :], X[y == 0], X[y == 1]
    way = rare.mean(axis=0) - common.mean(axis=0)
    assert (new.mean(axis=0) - common.mean(axis=0)) @ way / (way @ way) == pytest.approx(1.0, abs=0.1)
    assert new.var(axis=0).sum() == pytest.approx(rare.var(axis=0).sum(), rel=0.4)


@pytest.mark.parametrize(
    "form",
    [pd.Categorical, lambda y: pd.Categorical(y, [2, 1, 0, 7], ordered=True), pd.Index, lambda y: pd.array(y, dtype="Int64")],
)
def test_labels_in_arrays_of_pandas_come_back_as_such(quick, form):
    X, y = table()
    given = form(y)
    found = quick().fit_resample(X, given)[1]
    assert type(found) is type(given)
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(np.asarray(found, dtype=int), quick().fit_resample(X, y)[1])
