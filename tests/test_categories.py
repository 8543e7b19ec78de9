"""Tables with categories: what is said of them leads to something that works."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.feature_selection import VarianceThreshold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, StandardScaler

import skvae
from skvae import AnomalyDetector, AutoEncoder, Mixed

pytestmark = pytest.mark.usefixtures("one_core")
N = 120
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "a": RNG.normal(size=N),
        "city": RNG.choice(["Linz", "Graz", "Wien"], N),
        "rare": np.where(np.arange(N) % 20 == 0, [f"only {i}" for i in range(N)], "often"),
        "b": RNG.normal(5.0, 3.0, size=N),
    }
)


def tiny():
    return AutoEncoder(1, likelihood="gaussian", max_epochs=2, linear_path=None, random_state=0)


def encoder(**params):
    return OneHotEncoder(sparse_output=False, **{"handle_unknown": "ignore", **params})


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_the_encoder_that_is_advised_works_before_a_detector_and_within(calibration, as_array):
    X = FRAME.to_numpy() if as_array else FRAME
    with pytest.raises(ValueError, match="cannot be converted to numbers") as caught:
        AnomalyDetector(tiny(), calibration=calibration).fit(X)
    advised = eval(re.search(r"for example with (.*'passthrough'\))\.", str(caught.value))[1])
    new = X[:5].copy()
    if not as_array:
        new.loc[0, "city"] = "Rome"  # which is new
    detector = AnomalyDetector(tiny(), calibration=calibration, random_state=0)
    before = make_pipeline(advised, detector).fit(X)
    within = AnomalyDetector(make_pipeline(advised, tiny()), calibration=calibration, random_state=0).fit(X)
    for model in (before, within):
        assert set(model.predict(X)) <= {-1, 1}
        assert np.isfinite(model.decision_function(new)).all()
    assert np.isfinite(skvae.score_anomaly(before, new)).all()
    assert ((within.p_values(new) > 0) & (within.p_values(new) <= 1)).all()
    shares = within.explain(new)
    assert shares.shape == (5, 4)
    np.testing.assert_allclose(np.asarray(shares).sum(axis=1), before[-1].explain(before[0].transform(new)).sum(axis=1), rtol=0.5)


def test_a_detector_takes_frames_as_they_are():
    model = AnomalyDetector(tiny().set_params(likelihood=Mixed()), random_state=0)
    with pytest.raises(ValueError, match=r"'rare' of X holds what was not seen in fit.*handle_unknown.*some that are held out"):
        model.fit(FRAME)
    model.set_params(estimator__likelihood="auto").fit(FRAME)
    assert set(model.predict(FRAME.assign(city="Rome"))) <= {-1, 1}


def test_a_detector_says_what_to_do_about_categories_that_only_held_out_rows_have():
    for calibration in ("split", "cross"):
        model = AnomalyDetector(
            make_pipeline(make_column_transformer((OneHotEncoder(), ["rare"])), tiny()), calibration=calibration, random_state=0
        )
        with pytest.raises(ValueError, match=r"Found unknown categories.*Rows that are held out.*handle_unknown='ignore'"):
            model.fit(FRAME)
    AnomalyDetector(make_pipeline(make_column_transformer((OneHotEncoder(), ["rare"])), tiny()), contamination=0.1).fit(FRAME)


ENCODERS = {
    "remainder": lambda: make_column_transformer((encoder(), ["city", "rare"]), remainder="passthrough"),
    "first dropped": lambda: make_column_transformer(
        (encoder(drop="first", handle_unknown="ignore"), ["rare", "city"]), remainder="passthrough"
    ),
    "few": lambda: make_column_transformer((encoder(max_categories=2), ["rare", "city"]), remainder=StandardScaler()),
    "ordinal": lambda: make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), slice("city", "rare")), remainder="passthrough"
    ),
    "selected": lambda: make_column_transformer(
        (encoder(), make_column_selector(dtype_exclude="number")),
        (StandardScaler(), make_column_selector(dtype_include="number")),
    ),
    "positions": lambda: make_column_transformer((encoder(), [1, 2]), (StandardScaler(), slice(0, 1)), ("passthrough", [3])),
    "mask": lambda: make_column_transformer((encoder(), [False, True, True, False]), remainder="passthrough"),
    "inner pipeline": lambda: make_column_transformer(
        (make_pipeline(encoder(), StandardScaler()), ["city", "rare"]),
        (make_pipeline(StandardScaler(), KBinsDiscretizer(3, encode="onehot-dense", quantile_method="linear")), ["a"]),
        ("passthrough", ["b"]),
    ),
    "pandas": lambda: make_column_transformer((encoder(), ["city", "rare"]), remainder="passthrough").set_output(
        transform="pandas"
    ),
    "short names": lambda: ColumnTransformer(
        [("e", encoder(), ["city", "rare"])], remainder="passthrough", verbose_feature_names_out=False
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_shares_of_encoded_columns_are_those_of_the_columns_themselves(name):
    pipe = make_pipeline(ENCODERS[name](), VarianceThreshold(1e-3), tiny())
    model = AnomalyDetector(pipe, contamination=0.1, random_state=0).fit(FRAME)
    shares = model.explain(FRAME)
    assert list(shares.columns) == list(FRAME.columns)
    inner = model.estimators_[0]
    expected = inner[-1].explain_anomaly(inner[:-1].transform(FRAME))
    np.testing.assert_allclose(shares.sum(axis=1), np.asarray(expected).sum(axis=1))
    odd = FRAME[:20].assign(b=FRAME["b"][:20] + 100.0)
    more = model.explain(odd) - model.explain(FRAME[:20])
    assert (more["b"] > 10 * more[["city", "rare"]].abs().max(axis=1)).all()


def test_columns_that_are_left_out_have_no_shares():
    pipe = make_pipeline(make_column_transformer((encoder(), ["city"]), ("drop", ["rare"]), remainder="passthrough"), tiny())
    shares = AnomalyDetector(pipe, contamination=0.1).fit(FRAME).explain(FRAME)
    assert (shares["rare"] == 0.0).all()
    assert (shares["city"] != 0.0).any()
