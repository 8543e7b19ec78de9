"""Priors that are not normal, in every estimator that takes `prior=`."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from skvae import CVAE, AutoencoderImputer, LinearPath, MixturePrior, VAETransformer
from skvae._spec import check_number
from skvae.modules import Prior, PriorSpec
from skvae.modules.priors.normal import ConditionalPrior, StandardPrior, standard_log_prob

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The code of .* has collapsed"),  # of short fits
]


class Ring(Prior):
    """A normal code on either side of the origin, `shift` away along the first component; the scale is learned."""

    def __init__(self, n_components, shift):
        super().__init__(n_components)
        self.shift = shift
        self.log_scale = nn.Parameter(torch.zeros(n_components))

    @property
    def n_noise(self):
        return self.n_components + 1

    def _moved(self, z, by):
        return torch.cat([z[..., :1] + by, z[..., 1:]], dim=-1)

    def log_prob(self, z, condition=None):
        up, down = (
            standard_log_prob(self._moved(z, by) * torch.exp(-self.log_scale)) - self.log_scale.sum()
            for by in (-self.shift, self.shift)
        )
        return torch.logaddexp(up, down) - np.log(2.0)

    def from_noise(self, noise, condition=None):
        which = torch.where(noise[..., -1:] < 0.0, -self.shift, self.shift)
        return self._moved(noise[..., :-1] * torch.exp(self.log_scale), which)


class RingPrior(PriorSpec):
    def __init__(self, shift=2.0):
        self.shift = shift

    def check(self):
        check_number(self, "shift", at_least=0.0)

    def build(self, n_components, *, n_conditions=0, hidden=None):
        return Ring(n_components, self.shift)


@pytest.fixture(scope="module")
def group():
    return np.random.default_rng(0).integers(0, 2, size=300)


@pytest.fixture(scope="module")
def X(group):
    rng = np.random.default_rng(1)
    return np.where(group[:, None], 3.0, -3.0) * [1.0, 1.0, -1.0, 0.5] + rng.normal(size=(300, 4))


@pytest.fixture(scope="module")
def vae(X):
    return VAETransformer(1, prior=RingPrior(), linear_path=LinearPath(1.0), max_epochs=60, random_state=0).fit(X)


def test_names_stand_for_specifications(X, group):
    params = {"max_epochs": 2, "random_state": 0}
    for cls, name, spec in (
        (VAETransformer, "standard", StandardPrior()),
        (CVAE, "standard", StandardPrior()),
        (CVAE, "conditional", ConditionalPrior()),
    ):
        named, given = (cls(2, prior=prior, **params).fit(X, group) for prior in (name, spec))
        assert pickle.loads(pickle.dumps(given)).prior == spec
        for model in (given, pickle.loads(pickle.dumps(given))):
            np.testing.assert_array_equal(model.transform(X), named.transform(X))


def test_the_model_has_the_prior(vae, X, group):
    codes = vae.transform(X)[:, 0]
    assert abs(np.corrcoef(codes > 0.0, group)[0, 1]) > 0.9
    assert vae.score(X) > clone(vae).set_params(prior="standard").fit(X).score(X) + 0.1
    drawn = vae.sample(4000, random_state=0)
    np.testing.assert_allclose(drawn.std(0), X.std(0), rtol=0.15)
    assert (np.abs(drawn[:, 0]) < 1.0).mean() < 0.1  # nothing between the groups
    assert vae.module_.prior.log_scale.abs().max() > 1e-3  # learned with the rest
    assert vae.kl_per_component_.shape == (1,)


def test_the_score_is_the_log_likelihood(vae, X):
    """One component: p(x) is an integral over a line."""
    z = torch.linspace(-8.0, 8.0, 4001).unsqueeze(1)
    with torch.no_grad():
        log_prior = vae.module_.prior.log_prob(z).double().numpy()
    mean, std = vae.inverse_transform(z.numpy()).astype(float), vae.noise_scale_
    exact = [
        np.logaddexp.reduce(
            log_prior - 0.5 * (((x - mean) / std) ** 2).sum(1) - np.log(std * np.sqrt(2.0 * np.pi)).sum() + np.log(16.0 / 4000)
        )
        for x in X[:20]
    ]
    np.testing.assert_allclose(vae.set_params(n_score_draws=2000).score_samples(X[:20]), exact, atol=0.05)


def test_state_goes_round(vae, X):
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.score_samples(X), vae.score_samples(X))
    np.testing.assert_array_equal(again.sample(5, random_state=1), vae.sample(5, random_state=1))
    np.testing.assert_array_equal(clone(vae).fit(X).transform(X), vae.transform(X))


def test_arguments_are_searched_and_checked(X):
    model = VAETransformer(1, prior=RingPrior(), max_epochs=3, random_state=0, linear_path=None)
    search = GridSearchCV(model, {"prior__shift": [0.0, 2.0]}, cv=2).fit(X)
    assert search.best_params_["prior__shift"] in (0.0, 2.0)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    assert model.prior == RingPrior()
    with pytest.raises(ValueError, match=r"prior=RingPrior\(shift=-1\): shift=-1 must be a number of at least 0"):
        model.set_params(prior__shift=-1).fit(X)


def test_walks_go_by_the_priors_moments(X):
    model = VAETransformer(2, prior=RingPrior(shift=5.0), max_epochs=2, random_state=0).fit(X)
    with torch.no_grad():
        mean, log_var = (part[0].double().numpy() for part in model.module_.prior.moments(1))
    assert np.exp(0.5 * log_var[0]) > 4.0
    grid = model.latent_grid((0, 1), 3, extent=1.5)
    corner = mean + 1.5 * np.exp(0.5 * log_var) * [-1.0, 1.0]
    np.testing.assert_allclose(grid[0, 2], model.inverse_transform([corner])[0], rtol=1e-5)


def test_a_prior_that_needs_a_condition_is_refused_without_one(X):
    with pytest.raises(
        ValueError, match=r"prior=ConditionalPrior\(\) needs conditions, of which VAETransformer has none: use CVAE"
    ):
        VAETransformer(prior=ConditionalPrior()).fit(X)
    with pytest.raises(ValueError, match="'prior' parameter of VAETransformer must be"):
        VAETransformer(prior="conditional").fit(X)


def test_what_is_missing_is_drawn_by_the_prior(X, group):
    """Beside one observed column, imputation and inpainting find the row's group."""
    gaps = X.copy()
    gaps[::2, 1:] = np.nan
    base = VAETransformer(1, prior=RingPrior(), linear_path=None, max_epochs=60)
    filled = AutoencoderImputer(base, locality=0.0, random_state=0).fit(X).transform(gaps)
    assert (np.sign(filled[::2, 1]) == np.where(group[::2], 1.0, -1.0)).mean() > 0.95
    cvae = CVAE(1, prior=RingPrior(), linear_path=None, max_epochs=60, random_state=0).fit(X, np.zeros(len(X)))
    filled = cvae.inpaint(np.nan_to_num(gaps[:40]), np.isnan(gaps[:40]), np.zeros(40))
    assert (np.sign(filled[::2, 1]) == np.where(group[:40:2], 1.0, -1.0)).mean() > 0.9
    # Of a row of which nothing is given, a draw from the model: either group.
    drawn = cvae.draw_inpaintings(X[:1], np.ones((1, 4), dtype=bool), [0], n_draws=200)[0]
    assert 0.3 < (drawn[:, 0] > 0.0).mean() < 0.7


def test_rows_without_entries_have_the_priors_moments(X):
    gaps = X.copy()
    gaps[0] = np.nan
    gaps[1, 0] = np.nan
    model = VAETransformer(2, prior=RingPrior(), missing_values=np.nan, max_epochs=5, random_state=0).fit(gaps)
    mean, std = model.posterior(gaps[:1])
    with torch.no_grad():
        expected = model.module_.prior.moments(1)
    np.testing.assert_allclose(mean[0], expected.mean[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std[0], np.exp(0.5 * expected.log_var[0].numpy()), rtol=1e-5)
    assert std[0, 0] > 1.5
    assert np.isfinite(model.score_samples(gaps)).all()


@pytest.mark.parametrize("is_frame", [False, True])
@pytest.mark.parametrize("prior", ["auto", "standard", "flow", MixturePrior(3), MixturePrior(30), RingPrior()], ids=str)
def test_a_warm_start_keeps_a_choice_and_refuses_another_prior(prior, is_frame):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    if is_frame:
        X = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": np.where(X[:, 2] > 0.0, "yes", "no")})
    vae = VAETransformer(2, prior=prior, max_epochs=1, linear_path=None, warm_start=True, random_state=0).fit(X)
    before = vae.prior_
    vae.set_params(prior="auto")
    could_be = prior in ("auto", "standard") or (is_frame and prior == MixturePrior(3))  # of 400 rows four parts, of 300 three
    if could_be:
        assert vae.fit(X[:200]).prior_ == before
    else:
        with pytest.raises(ValueError, match="prior changed since the model was built"):
            vae.fit(X)
