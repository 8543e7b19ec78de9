"""Conditions on their way through scikit-learn's tools: as y, by metadata routing, or as columns of X."""

import numpy as np
import pandas as pd
import pytest
from conftest import slow
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import CVAE

N_ROWS = 60
LABELS = np.array(list("abc"))[np.arange(N_ROWS) % 3]
OTHERS = np.roll(LABELS, 1)
WEIGHT = 1.0 + np.arange(N_ROWS) % 4

pytestmark = pytest.mark.filterwarnings("ignore:The code of CVAE has collapsed")  # of fits this short


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(N_ROWS, 4)) + 2.0 * (np.arange(N_ROWS) % 3)[:, np.newaxis]


@pytest.fixture
def routed():
    with config_context(enable_metadata_routing=True):
        yield


def quick(**params):
    return CVAE(**{"n_components": 2, "hidden_layer_sizes": (6,), "max_epochs": 2, "random_state": 0, **params})


def with_encoder(**params):
    """A model whose every method depends on the condition."""
    return quick(encode_condition=True, **params)


# -- y ----------------------------------------------------------------------------------------------------------------


def test_codes_of_training_rows_are_those_of_new_rows(X):
    model = quick()
    codes = model.fit_transform(X, LABELS)
    np.testing.assert_array_equal(codes, model.transform(X))
    np.testing.assert_array_equal(codes, quick().fit(X, LABELS).transform(X))
    assert not np.array_equal(codes, quick().fit(X, OTHERS).transform(X))


def test_fit_transform_of_an_encoder_that_takes_the_condition(X):
    model = with_encoder()
    codes = model.fit_transform(X, LABELS)
    np.testing.assert_array_equal(codes, model.transform(X, condition=LABELS))
    assert not np.array_equal(codes, model.transform(X, condition=OTHERS))
    np.testing.assert_array_equal(with_encoder().fit_transform(X, OTHERS, condition=LABELS), codes)


@pytest.mark.parametrize(
    "last", [KMeans(3, n_init=1, random_state=0), LogisticRegression()], ids=lambda last: type(last).__name__
)
def test_pipelines_that_pass_y(X, last):
    pipeline = make_pipeline(StandardScaler(), quick(), last).fit(X, LABELS)
    codes = quick().fit_transform(StandardScaler().fit_transform(X), LABELS)
    np.testing.assert_array_equal(pipeline[:-1].transform(X), codes)
    np.testing.assert_array_equal(pipeline.predict(X), clone(last).fit(codes, LABELS).predict(codes))


def test_searches_score_with_y(X):
    search = GridSearchCV(quick(), {"n_components": [1, 2]}, cv=3).fit(X, LABELS)
    train, test = next(KFold(3).split(X))
    expected = quick(n_components=1).fit(X[train], LABELS[train])
    assert search.cv_results_["split0_test_score"][0] == expected.score(X[test], LABELS[test])
    assert search.cv_results_["split0_test_score"][0] != expected.score(X[test])
    scaled = GridSearchCV(make_pipeline(StandardScaler(), quick()), {"cvae__n_components": [1, 2]}, cv=3).fit(X, LABELS)
    assert np.isfinite(scaled.cv_results_["mean_test_score"]).all()


# -- routing off ------------------------------------------------------------------------------------------------------


def test_direct_calls_take_conditions_without_routing(X):
    model = quick().fit(X, condition=LABELS)
    expected = quick().fit(X, LABELS)
    np.testing.assert_array_equal(model.transform(X, condition=OTHERS), expected.transform(X))
    for method in (
        "reconstruct",
        "score_samples",
        "score_anomaly",
        "explain_anomaly",
        "effective_sample_size",
        "score",
        "posterior",
    ):
        np.testing.assert_array_equal(getattr(model, method)(X, condition=LABELS), getattr(expected, method)(X, LABELS))
    codes = model.transform(X)
    np.testing.assert_array_equal(model.inverse_transform(codes, condition=LABELS), expected.inverse_transform(codes, LABELS))
    mask = np.array([True, False, False, True])
    np.testing.assert_array_equal(model.inpaint(X, mask, condition=LABELS), expected.inpaint(X, mask, LABELS))
    np.testing.assert_array_equal(model.draw_inpaintings(X, mask, condition=LABELS), expected.draw_inpaintings(X, mask, LABELS))


def test_condition_comes_before_y(X):
    model = quick().fit(X, OTHERS, condition=LABELS)
    np.testing.assert_array_equal(model.transform(X), quick().fit(X, LABELS).transform(X))
    codes = model.transform(X)
    for method in ("reconstruct", "score_samples", "score", "score_anomaly"):
        np.testing.assert_array_equal(getattr(model, method)(X, OTHERS, condition=LABELS), getattr(model, method)(X, LABELS))
    np.testing.assert_array_equal(
        model.inverse_transform(codes, OTHERS, condition=LABELS), model.inverse_transform(codes, LABELS)
    )
    partly = quick().partial_fit(X, OTHERS, condition=LABELS)
    np.testing.assert_array_equal(partly.transform(X), quick().partial_fit(X, LABELS).transform(X))


def test_pipelines_pass_conditions_to_fit_without_routing(X):
    pipeline = make_pipeline(StandardScaler(), quick()).fit(X, cvae__condition=LABELS)
    np.testing.assert_array_equal(pipeline.transform(X), make_pipeline(StandardScaler(), quick()).fit(X, LABELS).transform(X))


# -- routing on -------------------------------------------------------------------------------------------------------


def test_pipeline(X, routed):
    scaled = StandardScaler().fit_transform(X)
    model = with_encoder().fit(scaled, LABELS)
    pipeline = make_pipeline(StandardScaler(), with_encoder()).fit(X, condition=LABELS)
    codes = pipeline.transform(X, condition=LABELS)
    np.testing.assert_array_equal(codes, model.transform(scaled, condition=LABELS))
    assert not np.array_equal(codes, pipeline.transform(X, condition=OTHERS))
    assert pipeline.score(X, condition=LABELS) == model.score(scaled, LABELS)
    assert pipeline.score(X, condition=LABELS) != pipeline.score(X, condition=OTHERS)
    rows = pipeline.inverse_transform(codes, condition=LABELS)
    np.testing.assert_allclose(rows, model.inverse_transform(codes, LABELS) * X.std(0) + X.mean(0))
    anew = make_pipeline(StandardScaler(), with_encoder())
    np.testing.assert_array_equal(anew.fit_transform(X, condition=LABELS), codes)


def test_a_pipeline_in_whose_end_y_is_something_else(X, routed):
    y = (X[:, 0] > X[:, 0].mean()).astype(int)
    pipeline = Pipeline([("codes", with_encoder()), ("classify", LogisticRegression())]).fit(X, y, condition=LABELS)
    codes = with_encoder().fit(X, LABELS).transform(X, condition=LABELS)
    expected = LogisticRegression().fit(codes, y)
    np.testing.assert_array_equal(pipeline.predict(X, condition=LABELS), expected.predict(codes))
    assert pipeline.score(X, y, condition=LABELS) == expected.score(codes, y)
    with pytest.raises(ValueError, match="by metadata routing"):
        pipeline.predict(X)


@pytest.mark.parametrize("n_jobs", [1, *slow(2)])
def test_searches_and_cross_validation(X, routed, n_jobs):
    pipeline = make_pipeline(StandardScaler(), quick())
    search = GridSearchCV(pipeline, {"cvae__n_components": [1, 2]}, cv=3, n_jobs=n_jobs, error_score="raise")
    search.fit(X, condition=LABELS)
    scores = cross_validate(pipeline, X, params={"condition": LABELS}, cv=3, n_jobs=n_jobs, error_score="raise")["test_score"]
    train, test = next(KFold(3).split(X))
    one = clone(pipeline).fit(X[train], condition=LABELS[train])
    assert scores[0] == pytest.approx(one.score(X[test], condition=LABELS[test]), rel=1e-6)
    assert search.cv_results_["split0_test_score"][1] == pytest.approx(scores[0], rel=1e-6)
    assert search.best_estimator_.score(X, condition=LABELS) == search.score(X, condition=LABELS)


def test_weights_are_routed_on_request(X, routed):
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        make_pipeline(StandardScaler(), quick()).fit(X, condition=LABELS, sample_weight=WEIGHT)
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    model = quick().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    pipeline = make_pipeline(scaler, model).fit(X, condition=LABELS, sample_weight=WEIGHT)
    scaled = StandardScaler().fit_transform(X)
    expected = quick().fit(scaled, LABELS, sample_weight=WEIGHT)
    np.testing.assert_array_equal(pipeline.transform(X), expected.transform(scaled))
    assert pipeline.score(X, condition=LABELS, sample_weight=WEIGHT) == expected.score(scaled, LABELS, WEIGHT)
    scores = cross_validate(pipeline, X, params={"condition": LABELS, "sample_weight": WEIGHT}, cv=3, error_score="raise")
    assert np.isfinite(scores["test_score"]).all()


def test_requests_can_be_changed(X, routed):
    model = quick().set_fit_request(condition="site").set_transform_request(condition="site").set_score_request(condition="site")
    pipeline = make_pipeline(StandardScaler(), model).fit(X, site=LABELS)
    np.testing.assert_array_equal(
        pipeline.transform(X, site=LABELS), make_pipeline(StandardScaler(), quick()).fit(X, condition=LABELS).transform(X)
    )
    with pytest.raises(TypeError, match="condition"):
        pipeline.fit(X, condition=LABELS)
    ignorant = make_pipeline(StandardScaler(), quick().set_fit_request(condition=False))
    with pytest.raises(TypeError, match="condition"):
        ignorant.fit(X, LABELS, condition=LABELS)
    assert quick().partial_fit(X, LABELS, classes=["a", "b", "c", "d"]).n_conditions_ == 4


def test_a_pipeline_takes_y_where_no_condition_is_passed(X, routed):
    pipeline = make_pipeline(StandardScaler(), quick()).fit(X, LABELS)
    np.testing.assert_array_equal(
        pipeline.transform(X), make_pipeline(StandardScaler(), quick()).fit(X, condition=LABELS).transform(X)
    )
    assert np.isfinite(GridSearchCV(quick(), {"beta": [1.0]}, cv=3, error_score="raise").fit(X, LABELS).best_score_)


# -- columns of X -----------------------------------------------------------------------------------------------------

NAMES = ["u", "v", "site", "w", "age", "x"]


@pytest.fixture
def frame(X):
    age = np.random.default_rng(1).normal(40.0, 10.0, size=N_ROWS)
    return pd.DataFrame(X, columns=list("uvwx")).assign(site=np.arange(N_ROWS) % 3, age=age)[NAMES]


@pytest.fixture
def columns():
    return {"condition_columns": ["age", "site"]}


def test_columns_by_name_and_position(frame, columns):
    model = quick(**columns).fit(frame)
    assert model.n_conditions_ == 2
    assert model.n_features_in_ == 6
    assert model.module_.n_features == 4
    assert not hasattr(model, "classes_")
    own, condition = (frame[names].to_numpy(float).copy("C") for names in (list("uvwx"), ["age", "site"]))
    expected = quick().fit(own, condition)
    np.testing.assert_array_equal(model.transform(frame), expected.transform(own))
    for given in ([4, 2], [-2, 2], np.array([4, 2]), pd.Index(["age", "site"]), ("age", 2)):
        np.testing.assert_array_equal(quick(condition_columns=given).fit(frame).transform(frame), model.transform(frame))
    np.testing.assert_array_equal(
        quick(condition_columns=[4, 2]).fit(frame.to_numpy()).transform(frame.to_numpy()), model.transform(frame)
    )
    np.testing.assert_array_equal(model.score_samples(frame), expected.score_samples(own, condition))


def test_rows_come_back_with_the_columns_in_place(frame, columns):
    model = quick(**columns).fit(frame)
    here, there = [0, 1, 3, 5], [4, 2]
    rows, codes = np.ascontiguousarray(frame), model.transform(frame)
    own, condition = rows[:, here].copy("C"), rows[:, there]
    plain = quick().fit(own, condition)
    for result, expected in (
        (model.reconstruct(frame), plain.reconstruct(own, condition)),
        (model.inverse_transform(codes, condition), plain.inverse_transform(codes, condition)),
    ):
        np.testing.assert_array_equal(result[:, there], condition)
        np.testing.assert_array_equal(result[:, here], expected)
    assert (model.reconstruct(frame)[:, here] != rows[:, here]).all()
    drawn, given = model.sample(50, return_y=True)
    np.testing.assert_array_equal(drawn[:, there], given)
    assert {tuple(row) for row in given.tolist()} <= {tuple(row) for row in condition.tolist()}
    np.testing.assert_array_equal(model.sample(3, [30.0, 1.0])[:, there], [[30.0, 1.0]] * 3)
    np.testing.assert_array_equal(model.style_transfer(frame, [30.0, 1.0])[:, there], [[30.0, 1.0]] * N_ROWS)
    np.testing.assert_array_equal(model.style_transfer(frame, condition), model.reconstruct(frame))
    shares = model.explain_anomaly(frame)
    assert (shares[:, there] == 0.0).all()
    np.testing.assert_allclose(shares.sum(1), model.score_anomaly(frame))
    walk = model.interpolate(frame[:2], frame[2:4], n_steps=3)
    assert walk.shape == (2, 3, 6)
    np.testing.assert_allclose(walk[:, 0], model.reconstruct(frame[:2]), atol=1e-5)
    np.testing.assert_allclose(walk[:, -1], model.reconstruct(frame[2:4]), atol=1e-5)
    mask = np.zeros((N_ROWS, 6), dtype=bool)
    mask[:, [0, 5]] = True
    filled = model.inpaint(frame, mask)
    np.testing.assert_array_equal(filled[:, 1:5], rows[:, 1:5])
    np.testing.assert_array_equal(filled[:, [0, 5]], plain.inpaint(own, mask[:, here], condition)[:, [0, 3]])
    with pytest.raises(ValueError, match="mask covers condition_columns"):
        model.inpaint(frame, ~mask)
    assert model.draw_inpaintings(frame, mask, n_draws=3).shape == (N_ROWS, 3, 6)


def test_the_condition_changes_what_is_made_of_a_code(frame, columns):
    model = quick(**columns, max_epochs=30).fit(frame)
    changed = frame.assign(site=(frame["site"] + 1) % 3)
    np.testing.assert_array_equal(model.transform(changed), model.transform(frame))
    assert not np.allclose(model.reconstruct(changed)[:, 0], model.reconstruct(frame)[:, 0])
    encoding = with_encoder(**columns).fit(frame)
    assert not np.array_equal(encoding.transform(changed), encoding.transform(frame))
    np.testing.assert_array_equal(encoding.fit_transform(frame), encoding.transform(frame))


def test_columns_in_a_pipeline_without_routing(frame, columns):
    scaler = make_column_transformer((StandardScaler(), list("uvwx")), remainder="passthrough", verbose_feature_names_out=False)
    pipeline = make_pipeline(scaler.set_output(transform="pandas"), quick(**columns), LogisticRegression())
    y = LABELS
    pipeline.fit(frame, y)
    scaled = scaler.fit_transform(frame)
    codes = quick(**columns).fit(scaled).transform(scaled)
    np.testing.assert_array_equal(pipeline[:-1].transform(frame), codes)
    np.testing.assert_array_equal(pipeline.predict(frame), LogisticRegression().fit(codes, y).predict(codes))
    search = GridSearchCV(pipeline[:-1], {"cvae__condition_columns": [["age"], ["age", "site"]]}, cv=3, error_score="raise")
    assert np.isfinite(search.fit(frame).cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.score(frame) == search.best_estimator_.score(frame, y)


def test_y_is_ignored_beside_columns(frame, columns):
    model = quick(**columns).fit(frame, LABELS)
    np.testing.assert_array_equal(model.transform(frame), quick(**columns).fit(frame).transform(frame))
    assert model.score(frame, LABELS) == model.score(frame)
    np.testing.assert_array_equal(model.reconstruct(frame, LABELS), model.reconstruct(frame))
    np.testing.assert_array_equal(quick(**columns).fit_transform(frame, LABELS), model.transform(frame))
    assert not model.__sklearn_tags__().target_tags.required
    assert quick().__sklearn_tags__().target_tags.required


def test_condition_is_refused_beside_columns(frame, columns):
    model, mask = quick(**columns).fit(frame), np.arange(6) == 0
    calls = {
        **dict.fromkeys(["fit", "partial_fit", "fit_transform", "transform", "posterior", "reconstruct", "score_samples"], ()),
        **dict.fromkeys(["effective_sample_size", "score", "score_anomaly", "explain_anomaly"], ()),
        "style_transfer": ([30.0, 1.0],),
        "inpaint": (mask,),
        "draw_inpaintings": (mask,),
    }
    for method, args in calls.items():
        with pytest.raises(ValueError, match="Pass condition, or set condition_columns, but not both"):
            getattr(clone(model) if "fit" in method else model, method)(frame, *args, condition=LABELS)
    given = frame[["age", "site"]].to_numpy(float)
    codes = model.transform(frame)
    np.testing.assert_array_equal(model.inverse_transform(codes, condition=given), model.inverse_transform(codes, given))


@pytest.mark.parametrize("column", ["u", "site", "x"])
def test_errors_name_the_column_that_is_at_fault(frame, columns, column):
    frame = frame.astype(float).assign(**{column: 1e300 * frame[column]})
    with pytest.raises(ValueError, match=rf"The spread of column\(s\) \['{column}'\] of X is too large"):
        quick(**columns).fit(frame)
    with pytest.raises(ValueError, match=rf"The spread of column\(s\) \[{NAMES.index(column)}\] of X is too large"):
        quick(condition_columns=[4, 2]).fit(frame.to_numpy())


def test_a_loss_that_is_lost_names_the_column_at_fault(frame):
    model = quick(condition_columns=[4, 2], optimizer="sgd", max_epochs=1, warm_start=True)
    far = frame.assign(x=1e9)
    for X, X_far, name in ((frame, far, "'x'"), (frame.to_numpy(), far.to_numpy(), "5")):
        fitted = clone(model).fit(X).set_params(learning_rate=1e20)
        with pytest.raises(ValueError, match=rf"Column {name} has a value"):
            fitted.fit(X_far)


@pytest.mark.parametrize("encode_condition", [False, True])
def test_sparse_rows(frame, encode_condition):
    X = np.where(frame.to_numpy() > 1.0, frame.to_numpy(), 0.0)
    params = {"condition_columns": [4, 2], "encode_condition": encode_condition}
    dense, compressed = quick(**params).fit(X), quick(**params).fit(sparse.csr_array(X))
    for method in ("transform", "reconstruct", "score_samples", "score_anomaly", "explain_anomaly"):
        np.testing.assert_array_equal(getattr(dense, method)(X), getattr(compressed, method)(sparse.csr_matrix(X)))
    mask = np.array([1, 0, 0, 0, 0, 1], dtype=bool)
    np.testing.assert_array_equal(dense.inpaint(X, mask), compressed.inpaint(sparse.csr_array(X), mask))


def test_weights_decide_on_rows_and_columns_alike(frame, columns):
    weight = np.where(np.arange(N_ROWS) < 40, 1.0, 0.0)
    model = quick(**columns).fit(frame, sample_weight=weight)
    np.testing.assert_array_equal(model.transform(frame), quick(**columns).fit(frame[:40]).transform(frame))
    assert {tuple(row) for row in model.sample(99, return_y=True)[1].tolist()} <= {
        tuple(row) for row in frame[["age", "site"]][:40].to_numpy(float).tolist()
    }


def test_warm_start_and_partial_fit_keep_the_columns(frame, columns):
    model = quick(**columns, warm_start=True).fit(frame)
    loss = model.loss_curve_[-1]
    assert model.fit(frame).loss_curve_[-1] < loss
    streamed = quick(**columns).partial_fit(frame).partial_fit(frame[:10])
    assert streamed.transform(frame).shape == (N_ROWS, 2)
    for changed in (["site", "age"], ["u"], None):
        with pytest.raises(ValueError, match="condition_columns changed since the model was built"):
            clone(model).fit(frame).set_params(condition_columns=changed).fit(frame, LABELS)
    with pytest.raises(ValueError, match="condition_columns changed since the model was built"):
        quick(warm_start=True).fit(frame, LABELS).set_params(**columns).fit(frame)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["nope"], r"condition_columns has 'nope', which X does not have; its columns are \['u', 'v'"),
        ([6], r"condition_columns has 6; it takes names and positions of the 6 columns of X"),
        ([True, False], r"condition_columns has True"),
        ([1.0], r"condition_columns has 1\.0"),
        (["age", "age"], "none twice"),
        (["age", -2], "none twice"),
        ([], "at least one"),
        (NAMES, "leave some of the 6 columns"),
        ("age", "condition_columns"),
    ],
    ids=str,
)
def test_columns_that_are_not_there(frame, columns, message):
    with pytest.raises(ValueError, match=message):
        quick(condition_columns=columns).fit(frame)


def test_columns_of_images_and_of_rows_without_names(X):
    with pytest.raises(ValueError, match=r"condition_columns has 'age', .* its columns have no names"):
        quick(condition_columns=["age"]).fit(X)
    with pytest.raises(ValueError, match="X is images, which have none to spare"):
        quick(condition_columns=[0]).fit(X.reshape(-1, 1, 2, 2))
    model = quick(condition_columns=[0], image_shape=(1, 1, 3)).fit(X)
    np.testing.assert_array_equal(model.reconstruct(X)[:, 0], X[:, 0])
