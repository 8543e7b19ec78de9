"""Fits that train together come out as they do alone."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import slow
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from skorch.callbacks import Callback  # noqa: TID251

from skvae import (
    CVAE,
    MLP,
    TDVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    CodePrior,
    ContractiveAE,
    CVAEClassifier,
    DenoisingAE,
    EarlyStopping,
    LinearPath,
    NeighborAE,
    Optimizer,
    SparseAE,
    VAETransformer,
    train_together,
)
from skvae.training import decay, net, together

pytestmark = pytest.mark.usefixtures("one_core")

ORDER = np.random.default_rng(0).permutation(178)[:89]
X, Y = scale(load_wine().data)[ORDER], load_wine().target[ORDER]
SMALL = {"hidden_layer_sizes": (8,), "max_epochs": 8, "random_state": 0}


@pytest.fixture
def stacked(monkeypatch):
    """Numbers of stretches that were taken at once."""
    numbers = []

    def take(stretches):
        found = together.take(stretches)
        numbers.append(sum(each is not None for each in found))
        return found

    monkeypatch.setattr(net, "take", take)
    monkeypatch.setattr(decay, "take", take)
    return numbers


def fits(model, X=X, y=Y, **params):
    """Scores and estimators of a cross-validation, together or one after the other."""
    return cross_validate(model, X, y, return_estimator=True, error_score="raise", **{"cv": 3, **params})


def assert_alike(one, other, rtol=1e-3):
    """Assert that cross-validations have come to the same, up to rounding."""
    np.testing.assert_allclose(one["test_score"], other["test_score"], rtol=rtol)
    for model, twin in zip(one["estimator"], other["estimator"], strict=True):
        codes, expected = model.transform(X), twin.transform(X)
        np.testing.assert_allclose(codes, expected, rtol=0.0, atol=rtol * np.abs(expected).max())
        assert model.n_iter_ == twin.n_iter_
        for name, values in twin.history_.items():
            np.testing.assert_allclose(model.history_[name], values, rtol=rtol, atol=1e-4)


TOGETHER = {
    "autoencoder": AutoEncoder(2, linear_path=None, **SMALL),
    "autoencoder, tied": AutoEncoder(2, linear_path=None, decoder="tied", **SMALL),
    "autoencoder with a linear path": AutoEncoder(2, linear_path=LinearPath(3.0), **SMALL),
    "vae": VAETransformer(2, beta=0.5, kl_warmup=0.5, linear_path=None, **SMALL),
    "vae by other optimizers": VAETransformer(2, optimizer=Optimizer("sgd", momentum=0.5, clip_norm=1.0), **SMALL),
    "vae that stops early": VAETransformer(
        2, linear_path=None, early_stopping=EarlyStopping(0.3, n_iter_no_change=1), **{**SMALL, "max_epochs": 40}
    ),
    "cvae": CVAE(2, linear_path=None, **SMALL),
    "denoising": DenoisingAE(2, linear_path=None, corruption=("masking", "gaussian"), **SMALL),
    "contractive": ContractiveAE(2, **SMALL),
    "neighbors": NeighborAE(2, n_neighbors=5, **SMALL),
    "sparse": SparseAE(10, **SMALL),
    "vqvae": VQVAE(n_codes=2, n_embeddings=8, embedding_dim=2, code_prior=CodePrior(max_epochs=3), **SMALL),
}


@pytest.mark.parametrize("model", TOGETHER.values(), ids=TOGETHER)
def test_fits_come_out_as_they_do_alone(model, stacked):
    n_rows = 87 if isinstance(model, (SparseAE, VQVAE)) else 89  # batches of some must not differ by a row
    alone = fits(model, X[:n_rows], Y[:n_rows])
    assert not any(stacked)
    with train_together():
        found = fits(model, X[:n_rows], Y[:n_rows])
    assert max(stacked) == 3
    # Where linear maps begin at their best, gradients are next to nothing, of which Adam makes steps of full size.
    assert_alike(found, alone, rtol=1e-3 if getattr(model, "linear_path", None) is None else 2e-2)
    with train_together():
        again = fits(model, X[:n_rows], Y[:n_rows])
    np.testing.assert_array_equal(again["test_score"], found["test_score"])


def _batch_listener():
    class Listener(Callback):
        def on_batch_end(self, net, **kwargs):
            pass

    return Listener


ALONE = {
    "dropout": AutoEncoder(2, encoder=MLP(dropout=0.1), linear_path=None, **SMALL),
    "a function of the user's": DenoisingAE(2, corruption=lambda x: x, linear_path=None, **SMALL),
    "a callback that looks at batches": AutoEncoder(2, callbacks=[_batch_listener()], linear_path=None, **SMALL),
}


@pytest.mark.parametrize("model", ALONE.values(), ids=ALONE)
def test_fits_that_cannot_be_stacked_are_what_they_are_alone(model, stacked):
    alone = fits(model)
    with train_together():
        found = fits(model)
    assert not any(stacked)
    np.testing.assert_array_equal(found["test_score"], alone["test_score"])


def test_sequences_are_trained_alone(stacked):
    series = np.random.default_rng(0).normal(size=(12, 6, 2))
    model = TDVAE(4, max_epochs=2, random_state=0)
    alone = cross_validate(model, series, cv=2)["test_score"]
    with train_together():
        found = cross_validate(model, series, cv=2)["test_score"]
    assert not any(stacked)
    np.testing.assert_array_equal(found, alone)


def test_folds_of_other_sizes_are_stacked_where_rows_are_coupled_by_weights_alone(stacked):
    with train_together():
        fits(AutoEncoder(2, linear_path=None, **SMALL), X[:85], Y[:85])
    assert max(stacked) == 3
    stacked.clear()
    alone = fits(SparseAE(10, **SMALL), X[:85], Y[:85])
    with train_together():
        found = fits(SparseAE(10, **SMALL), X[:85], Y[:85])
    assert max(stacked) < 3
    assert_alike(found, alone)


def test_weights_of_neighbors_and_distances_of_codes_vary_within_a_stack(stacked):
    grid = {"neighbor_weight": [0.5, 2.0], "min_dist": [0.0, 0.5], "n_neighbors": [3, 6]}
    model = NeighborAE(2, **SMALL)
    alone = GridSearchCV(model, grid, cv=2).fit(X[:88]).cv_results_["mean_test_score"]
    with train_together():
        found = GridSearchCV(model, grid, cv=2).fit(X[:88]).cv_results_["mean_test_score"]
    assert max(stacked) == 16
    np.testing.assert_allclose(found, alone, rtol=1e-3)
    assert len(np.unique(found)) == 8


def test_missing_entries_and_weights_go_along(stacked):
    rng = np.random.default_rng(0)
    rows = np.where(rng.random(X.shape) < 0.1, np.nan, X)
    weight = rng.integers(1, 4, len(X)).astype(float)

    with config_context(enable_metadata_routing=True):
        model = VAETransformer(2, missing_values=np.nan, linear_path=None, **SMALL)
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        alone = fits(model, rows, params={"sample_weight": weight})
        with train_together():
            found = fits(model, rows, params={"sample_weight": weight})
    assert max(stacked) == 3
    np.testing.assert_allclose(found["test_score"], alone["test_score"], rtol=1e-3)


def test_a_grid_of_pipelines_finds_the_same(stacked):
    pipe = make_pipeline(StandardScaler(), VAETransformer(2, linear_path=None, **SMALL))
    grid = {
        "vaetransformer__beta": [0.5, 2.0],
        "vaetransformer__learning_rate": [1e-3, 1e-2],
        "vaetransformer__n_components": [2, 3],
        "vaetransformer__max_epochs": [4, 8],
    }
    alone = GridSearchCV(pipe, grid, cv=2).fit(X)
    with train_together():
        found = GridSearchCV(pipe, grid, cv=2).fit(X)
        again = GridSearchCV(pipe, grid, cv=2).fit(X)
    assert max(stacked) == 8  # of one size of the code and one number of epochs
    assert found.best_params_ == alone.best_params_
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(found.cv_results_[name], alone.cv_results_[name], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(again.cv_results_[name], found.cv_results_[name])


def test_the_choice_of_a_decay_is_made_together(stacked):
    model = AutoEncoder(1, hidden_layer_sizes=(8,), max_epochs=100, random_state=0)
    alone = fits(model)
    with train_together():
        found = fits(model)
    assert max(stacked) == 3
    for one, other in zip(found["estimator"], alone["estimator"], strict=True):
        n = min(len(one.decay_curve_["loss"]), len(other.decay_curve_["loss"]))
        np.testing.assert_allclose(one.decay_curve_["loss"][:n], other.decay_curve_["loss"][:n], rtol=0.02)


def test_a_candidate_that_fails_does_not_touch_the_others():
    grid = {"learning_rate": [1e-3, 1e25, 1e-2], "n_components": [2]}
    model = VAETransformer(2, linear_path=None, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = GridSearchCV(model, grid, cv=2, error_score=np.nan).fit(X).cv_results_["mean_test_score"]
        with train_together():
            found = GridSearchCV(model, grid, cv=2, error_score=np.nan).fit(X).cv_results_["mean_test_score"]
    assert np.isnan(alone).tolist() == np.isnan(found).tolist()
    np.testing.assert_allclose(found, alone, rtol=1e-3)
    with train_together(), pytest.raises(ValueError, match="stopped being finite"):
        GridSearchCV(model, grid, cv=2, error_score="raise").fit(X)


class Burst(torch.optim.SGD):
    """Spoils the weights in its seventh step, where the learning rate is large."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for param in group["params"]:
                count = self.state[param].get("count", torch.zeros(())) + 1
                self.state[param]["count"] = count
                if count == 7 and group["lr"] > 0.005:
                    param.data.fill_(np.nan)


def test_a_fit_that_diverges_among_others_ends_where_it_does_alone(stacked):
    model = AutoEncoder(2, linear_path=None, batch_size=16, optimizer=Optimizer(Burst, schedule="constant"), **SMALL)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for way in (nullcontext, train_together):
            with way():
                search = GridSearchCV(
                    model, {"learning_rate": [0.001, 0.01, 0.002]}, cv=2, scoring=lambda model, X: model.n_iter_
                )
                found.append(search.fit(X[:88]).cv_results_["mean_test_score"].tolist())
    assert found == [[8, 2, 8]] * 2
    assert max(stacked) == 6


def test_weights_that_nothing_can_be_computed_with_are_named(monkeypatch):
    monkeypatch.setattr(AutoEncoder, "_measure", lambda self, run: torch.linalg.cholesky(-torch.eye(2)))
    with pytest.raises(ValueError, match="stopped being finite"):
        AutoEncoder(2, linear_path=None, **SMALL).fit(X)


def test_a_fit_that_diverges_later_keeps_its_last_good_weights():
    class Spoil(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 4 and len(kwargs["dataset_train"]) == 44:
                with torch.no_grad():
                    net.module_.encoder[0].weight.fill_(np.nan)

    model = AutoEncoder(2, linear_path=None, callbacks=[Spoil], **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        alone = fits(model, X, Y, cv=2)
        with train_together():
            found = fits(model, X, Y, cv=2)
    assert sorted(each.n_iter_ for each in alone["estimator"]) == [4, 8]
    assert_alike(found, alone)


@pytest.mark.parametrize("max_memory", ["100kB", *slow("10MB"), None])
def test_memory_bounds_how_many_train_at_once_and_changes_nothing(max_memory, stacked):
    model = AutoEncoder(2, linear_path=None, **SMALL)
    alone = GridSearchCV(model, {"learning_rate": [1e-3, 2e-3, 4e-3, 8e-3]}, cv=3).fit(X)
    with train_together(max_memory=max_memory):
        found = GridSearchCV(model, {"learning_rate": [1e-3, 2e-3, 4e-3, 8e-3]}, cv=3).fit(X)
    if max_memory is None:
        assert max(stacked) == 12
    elif max_memory == "100kB":
        assert max(stacked, default=0) <= 1
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-4)


def test_what_stands_on_estimators_meets_too(stacked):
    detector = AnomalyDetector(AutoEncoder(2, linear_path=None, **SMALL), calibration="cross", random_state=0)
    alone = clone(detector).fit(X).score_samples(X)
    with train_together():
        found = clone(detector).fit(X).score_samples(X)
    assert max(stacked) > 1
    np.testing.assert_allclose(found, alone, rtol=1e-2, atol=1e-3)
    stacked.clear()
    classifier = CVAEClassifier(CVAE(2, linear_path=None, **SMALL), random_state=0)
    with train_together():
        cross_val_predict(classifier, X, Y, cv=3)
    assert max(stacked) > 1


def test_callbacks_see_their_own_fit():
    seen = []

    class Look(Callback):
        def on_epoch_end(self, net, **kwargs):
            counts = {float(entry["step"]) for entry in net.optimizer_.state.values()}
            seen.append((len(net.history), net.module_.encoder[0].weight.detach().clone(), counts))

    model = AutoEncoder(2, linear_path=None, callbacks=[Look], **SMALL)
    model.fit(X)
    alone = seen.copy()
    seen.clear()
    with train_together():
        fits(model, np.concatenate([X, X]), np.concatenate([Y, Y]), cv=[(np.arange(len(X)), [0])] * 2)
    assert len(seen) == 2 * len(alone)
    for n_epochs, weight, counts in seen:
        _, expected, expected_counts = alone[n_epochs - 1]
        np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-5)
        assert counts == expected_counts


def test_the_seconds_of_a_fit_are_its_own():
    model = AutoEncoder(2, linear_path=None, **SMALL).fit(X)
    assert 0.0 < model.fit_seconds_ < 60.0
    with train_together():
        found = fits(model, cv=5)
    own = [each.fit_seconds_ for each in found["estimator"]]
    assert all(0.0 < seconds <= wall for seconds, wall in zip(own, found["fit_time"], strict=True))
    assert sum(own) < sum(found["fit_time"])


def test_parts_are_taken_side_by_side_and_do_not_depend_on_how_many_processors_there_are(monkeypatch, stacked):
    model = VAETransformer(2, linear_path=None, **SMALL)
    grid = {"learning_rate": [1e-3, 3e-3, 1e-2], "beta": [0.5, 1.0]}

    def scores():
        with train_together():
            return GridSearchCV(model, grid, cv=2).fit(X).cv_results_["mean_test_score"]

    whole = scores()
    assert max(stacked) == 12
    work = 44 * model.fit(X).module_.row_work  # of one model
    monkeypatch.setattr(together, "_WORK", 3 * work)
    sizes, take_part = [], together._take_at_once
    monkeypatch.setattr(together, "_take_at_once", lambda part: sizes.append(len(part)) or take_part(part))
    found = []
    for n_processors in (1, 3):
        monkeypatch.setattr(together, "cpu_count", lambda n=n_processors: n)
        found.append(scores())
    assert set(sizes) == {3}
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], whole, rtol=1e-3)


def test_fits_together_do_not_depend_on_the_default_type(monkeypatch):
    model = DenoisingAE(2, linear_path=None, corruption=("masking", "gaussian"), **SMALL)
    monkeypatch.setattr(together, "_WORK", 1)
    with train_together():
        expected = fits(model)["test_score"]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with train_together():
            found = fits(model)["test_score"]
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_array_equal(found, expected)
