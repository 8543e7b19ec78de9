"""Samples given some entries, through pipelines, and who takes none."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

import skvae
from skvae import CVAE, TDVAE, VQVAE, AutoEncoder, AutoencoderClusterer, SparseAE, VAETransformer

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The (code|prior) of .*"),
    pytest.mark.filterwarnings("ignore:.* hardly ever has rows with what is given"),
    pytest.mark.filterwarnings("ignore:Only .* of the .* codes"),
]

QUICK = {"hidden_layer_sizes": (8,), "max_epochs": 3, "random_state": 0}
X = np.random.default_rng(0).normal(size=(60, 4)) * [1.0, 10.0, 100.0, 1.0] + 5.0
FRAME = pd.DataFrame(X, columns=list("abcd"))

COLUMNWISE = [
    [FunctionTransformer()],
    ["passthrough"],
    [StandardScaler()],
    [StandardScaler().set_output(transform="pandas")],
    [MaxAbsScaler(), RobustScaler()],
    [SimpleImputer(), QuantileTransformer(n_quantiles=20)],
    [MinMaxScaler(), PowerTransformer(), FunctionTransformer()],
]


@pytest.mark.parametrize("marker", [-1.0, 0])
def test_what_a_step_fills_in_is_not_given(marker):
    frame = FRAME.copy()
    frame.iloc[::5] = marker
    pipe = make_pipeline(SimpleImputer(missing_values=marker), StandardScaler(), VAETransformer(2, **QUICK)).fit(frame)
    given = frame[2:4].assign(a=[5.25, marker])
    X = skvae.sample(pipe, given=given.mask(given == marker), random_state=0)
    np.testing.assert_array_equal(skvae.sample(pipe, given=given, random_state=0), X)
    assert X[0, 0] == 5.25
    assert (X != marker).all()


@pytest.mark.parametrize("steps", COLUMNWISE, ids=str)
def test_entries_are_given_as_they_go_into_the_pipeline(steps):
    pipe = make_pipeline(*steps, VAETransformer(2, **QUICK)).fit(FRAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".* hardly ever has rows with what is given")
        for given in (
            {"a": 5.25, "c": 40.0},
            {"a": 5.25, "b": None, "c": 40.0},
            pd.Series({"a": 5.25, "c": 40.0}),
            {0: 5.25, 2: 40.0},
        ):
            drawn = np.asarray(skvae.sample(pipe, 5, given=given, random_state=0))
            np.testing.assert_array_equal(drawn[:, [0, 2]], np.tile([5.25, 40.0], (5, 1)))
            assert len(np.unique(drawn[:, 1])) > 1
        few = FRAME.iloc[:4].where(FRAME.iloc[:4] > 5.0)
        drawn = np.asarray(skvae.sample(pipe, given=few))
        np.testing.assert_array_equal(drawn[few.notna()], few.to_numpy()[few.notna()])
        assert np.isfinite(drawn).all()
        part = np.asarray(skvae.sample(pipe, given=FRAME[["c", "a"]].iloc[:3]))
        np.testing.assert_array_equal(part[:, [0, 2]], X[:3, [0, 2]])
    assert skvae.sample(pipe, 2, given={"a": 5.0}, mean=True).shape == (2, 4)


def test_draws_are_those_of_the_step_in_its_units():
    pipe = make_pipeline(StandardScaler(), VAETransformer(2, **QUICK)).fit(X)
    scaled = (40.0 - X[:, 2].mean()) / X[:, 2].std()
    own = pipe[-1].sample(5, given={2: scaled}, random_state=3)
    np.testing.assert_allclose(skvae.sample(pipe, 5, given={2: 40.0}, random_state=3), pipe[0].inverse_transform(own), rtol=1e-5)
    polars = make_pipeline(StandardScaler(), VAETransformer(2, **QUICK)).fit(pl.DataFrame(FRAME.to_dict("list")))
    np.testing.assert_array_equal(skvae.sample(polars, given=pl.DataFrame({"c": [1.0, 2.0]}))[:, 2], [1.0, 2.0])
    labeled = make_pipeline(StandardScaler(), CVAE(2, **QUICK)).fit(X, np.arange(60) % 2)
    np.testing.assert_array_equal(skvae.sample(labeled, 3, given={2: 40.0}, y=1)[:, 2], 40.0)


@pytest.mark.parametrize("steps", [[PCA()], [OneHotEncoder(sparse_output=False)], [StandardScaler(), PCA(2)]], ids=str)
def test_columns_that_become_others(steps):
    pipe = make_pipeline(*steps, VAETransformer(2, **QUICK)).fit(X)
    with pytest.raises(
        TypeError, match=rf"\['{type(steps[-1]).__name__.lower()}'\] make others of them before they reach VAETransformer"
    ):
        skvae.sample(pipe, 2, given={0: 5.0})
    with pytest.raises(
        ValueError, match=r"given has \['z'\], which are no columns of what goes into the pipeline: \['a', 'b', 'c', 'd'\]"
    ):
        skvae.sample(make_pipeline(StandardScaler(), VAETransformer(2, **QUICK)).fit(FRAME), given={"z": 1.0})
    with pytest.raises(ValueError, match=r"cannot be converted|must be a number"):
        skvae.sample(make_pipeline(StandardScaler(), VAETransformer(2, **QUICK)).fit(FRAME), given={"a": "much"})


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (SparseAE(4, **QUICK), "patterns of activity"),
        (VQVAE(4, code_prior="histogram", **QUICK), "its codes are discrete"),
        (TDVAE(2, **QUICK), "rollout goes on from steps that are known"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_models_that_take_none_say_why(model, why):
    model.fit(X.reshape(-1, 5, 4) if isinstance(model, TDVAE) else X)
    for sample in (model.sample, lambda n, **options: skvae.sample(model, n, **options)):
        with pytest.raises(
            ValueError, match=rf"{type(model).__name__} takes no given: .*{why}.*VAETransformer, CVAE and AutoEncoder take"
        ):
            sample(2, given={0: 1.0})
        assert len(sample(2)) == 2


# -- options that are True or False ------------------------------------------------------------------------------------


def flagged():
    """Methods with options that are True or False, and these."""
    y = np.arange(60) % 2
    vae, cvae = VAETransformer(2, **QUICK).fit(X), CVAE(2, **QUICK).fit(X, y)
    vq = VQVAE(4, code_prior="histogram", **QUICK).fit(X, y)
    td = TDVAE(2, **QUICK).fit(X.reshape(-1, 5, 4))
    clusterer = AutoencoderClusterer(2, estimator=AutoEncoder(2, **QUICK), n_init=1).fit(X)
    return [
        *((model.sample, "mean") for model in (vae, cvae, vq, td, clusterer, SparseAE(4, **QUICK).fit(X))),
        (lambda mean: vae.sample(2, given={0: 1.0}, mean=mean), "mean"),
        (lambda mean: skvae.sample(vae, mean=mean), "mean"),
        (lambda mean: td.rollout(X.reshape(-1, 5, 4), mean=mean), "mean"),
        (cvae.sample, "return_y"),
        (vq.sample, "return_y"),
    ]


def test_options_are_true_or_false():
    for method, name in flagged():
        for bad in ("yes", "no", 1, None, 0.0):
            with pytest.raises(ValueError, match=f"{name}={bad!r} must be True or False"):
                method(**{name: bad})
        if name == "mean":
            method(mean=np.bool_(True))
