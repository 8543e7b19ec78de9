"""Streams by `partial_fit`: columns that are constant at first, and parameters that change on the way."""

import pickle

import numpy as np
import pytest
import torch
from cases import CASES
from conftest import crossed
from scipy import sparse

from skvae import CVAE, TDVAE, AutoEncoder, Gaussian, LinearPath, Optimizer, VAETransformer
from skvae.estimators._specs import BATCH_ROWS

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The (code|state) of .* has collapsed"),  # of short fits
    pytest.mark.filterwarnings("ignore:Only .* codes.* are in use"),
]
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(600, 2))
X = np.column_stack([Z @ RNG.normal(size=(2, 4)) + 0.2 * RNG.normal(size=(600, 4)), 3.0 + 2.0 * (Z[:, 0] > 0.3)])
CONSTANT = X[X[:, 4] == 3.0][:150]  # and never another value in the last column


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


def quick(**params):
    return AutoEncoder(2, **{"max_epochs": 10, "linear_path": LinearPath(1.0), "random_state": 0, **params})


# -- columns that are constant at first -------------------------------------------------------------------------------


def test_a_column_that_is_constant_at_first_is_learned_once_it_is_not(case):
    case.needs("columns of their own")
    model = case.make(max_epochs=10).partial_fit(CONSTANT)
    assert model.noise_scale_[4] < 2.0
    assert (model.reconstruct(X)[:, 4] == 3.0).all()
    before = model.module_.likelihood.units.state
    for _ in range(2):
        for chunk in np.array_split(X, 3):
            model.partial_fit(chunk)
    units = model.module_.likelihood.units
    assert not units.is_constant.any()
    for name in ("shift", "scale", "mean", "low"):
        np.testing.assert_array_equal(units.state[name][:4], before[name][:4])
    assert 3.0 < units.constant[4] < 5.0
    assert 0.3 < units.scale[4] < 2.0
    assert np.ptp(model.reconstruct(X)[:, 4]) > 0.0
    assert np.ptp(model.sample(200, random_state=0)[:, 4]) > 1.0
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.score_anomaly(X)).all()
    odd = X[:5] + np.array([0.0, 0.0, 0.0, 0.0, 50.0])
    assert (model.score_samples(odd) < model.score_samples(X[:5])).all()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(again.partial_fit(X).transform(X), model.partial_fit(X).transform(X))


def test_what_is_learned_late_is_about_as_good_as_what_is_learned_from_the_start():
    late, early = quick().partial_fit(CONSTANT), quick().partial_fit(X[:150])
    for _ in range(3):
        for chunk in np.array_split(X, 6):
            late.partial_fit(chunk)
            early.partial_fit(chunk)
    assert late.score(X) > early.score(X) - 0.6
    assert np.corrcoef(late.reconstruct(X)[:, 4], X[:, 4])[0, 1] > 0.75


@pytest.mark.parametrize(
    ("likelihood", "form"),
    crossed(["gaussian", "laplace", "bernoulli", "poisson"], [np.asarray, np.float32, sparse.csr_array]),
)
def test_late_columns_by_any_likelihood(likelihood, form):
    table = np.where(RNG.random((300, 4)) < 0.3, 1.0, 0.0) * (1.0 if likelihood == "bernoulli" else 3.0)
    first = table[:60].copy()
    first[:, 2] = 0.0
    model = VAETransformer(1, max_epochs=5, likelihood=likelihood, linear_path=LinearPath(1.0), random_state=0)
    model.partial_fit(form(first))
    for _ in range(6):
        model.partial_fit(form(table))
    drawn = model.sample(500, random_state=0)[:, 2]
    assert drawn.std() > 0.3 * table[:, 2].std()
    if likelihood != "laplace":  # whose draws are around the median
        assert drawn.mean() == pytest.approx(table[:, 2].mean(), rel=0.35)
    assert np.isfinite(model.score(table))


def test_units_of_late_columns_are_those_of_all_rows_so_far():
    model = quick().partial_fit(CONSTANT).partial_fit(X[:300], sample_weight=np.linspace(0.5, 1.5, 300))
    values = np.concatenate([np.full(150, 3.0), X[:300, 4]])
    weight = np.concatenate([np.ones(150), np.linspace(0.5, 1.5, 300)])
    mean = np.average(values, weights=weight)
    assert model.module_.likelihood.units.constant[4] == pytest.approx(mean)
    assert model.module_.likelihood.units.scale[4] == pytest.approx(np.sqrt(np.average((values - mean) ** 2, weights=weight)))
    # A chunk of another constant value, and a single row.
    other = X[X[:, 4] == 5.0][:150]
    assert quick().partial_fit(CONSTANT).partial_fit(other).module_.likelihood.units.constant[4] == pytest.approx(4.0)
    single = quick().partial_fit(CONSTANT).partial_fit(other[:1])
    assert np.isfinite(single.score(X))
    assert not single.module_.likelihood.units.is_constant[4]


def test_columns_that_stay_constant_do_so():
    moved = CONSTANT.copy()
    moved[:, 4] *= 1 + 1e-15
    model = quick().partial_fit(CONSTANT).partial_fit(moved)
    assert model.module_.likelihood.units.is_constant[4]
    assert (model.reconstruct(X)[:, 4] == 3.0).all()


@pytest.mark.parametrize("noise", ["auto", "feature", "shared", 0.5])
def test_late_columns_of_pixels_and_of_any_noise(noise):
    pixels = RNG.integers(0, 17, size=(200, 20)).astype(float)
    first = pixels[:80].copy()
    first[:, :4] = 0.0
    model = quick(likelihood=Gaussian(noise)).partial_fit(first).partial_fit(pixels)
    units = model.module_.likelihood.units
    assert not units.is_constant.any()
    if units.is_shared:
        assert (units.scale == units.scale[0]).all()
    assert np.isfinite(model.score(pixels))
    assert (model.noise_scale_ > 0.2).all()


def test_late_columns_of_a_warm_start():
    model = quick(warm_start=True).fit(CONSTANT).fit(X)
    assert not model.module_.likelihood.units.is_constant.any()
    assert np.corrcoef(model.reconstruct(X)[:, 4], X[:, 4])[0, 1] > 0.5


def test_late_columns_beside_conditions():
    y = (Z[:, 1] > 0).astype(int)
    model = CVAE(1, max_epochs=5, linear_path=LinearPath(1.0), random_state=0)
    model.partial_fit(CONSTANT, y[X[:, 4] == 3.0][:150], classes=[0, 1])
    for _ in range(3):
        model.partial_fit(X, y)
    assert np.ptp(model.sample(100, y=1, random_state=0)[:, 4]) > 1.0


def test_late_columns_of_sequences():
    frames = RNG.normal(size=(60, 8, 3)).cumsum(axis=1)
    first = frames.copy()
    first[..., 1] = 2.0
    model = TDVAE(4, n_latents=1, max_epochs=2, n_pairs=4, random_state=0).partial_fit(first)
    assert (model.module_.likelihood.units.is_constant == [False, True, False]).all()
    for _ in range(3):
        model.partial_fit(frames)
    assert not model.module_.likelihood.units.is_constant.any()
    assert np.isfinite(model.score(frames))
    assert np.ptp(model.sample(20, random_state=0)[..., 1]) > 0.5


def test_rows_that_anomalies_are_compared_with_keep_their_values():
    model = quick().partial_fit(CONSTANT)
    known = model.module_.likelihood.from_comparable(torch.tensor(model._kept_rows.x))
    model.partial_fit(X[:200])
    kept = model.module_.likelihood.from_comparable(torch.tensor(model._kept_rows.x))
    n_old = sum(np.abs(known - row).max(axis=1).min() < 1e-4 for row in kept)
    assert n_old > 20


def test_a_failure_leaves_late_columns_as_they_were():
    model = quick().partial_fit(CONSTANT)
    before = model.transform(X)
    wild = X.copy()
    wild[:, 4] *= 1e200
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"The spread of column\(s\) \[4\] of X is too large"):
        model.partial_fit(wild)
    assert model.module_.likelihood.units.is_constant[4]
    np.testing.assert_array_equal(model.transform(X), before)


def test_columns_that_are_missing_altogether_at_first():
    first = X[:100].copy()
    first[:, [1, 3]] = np.nan
    cure = "begin with rows that have some, or fit to a sample of all rows first"
    with pytest.raises(ValueError, match=rf"Column\(s\) \[1, 3\] of X have no entry that is not missing.*{cure}"):
        quick(missing_values=np.nan).partial_fit(first)
    with pytest.raises(ValueError, match=r"nothing to learn; drop them\.$"):
        quick(missing_values=np.nan).fit(first)
    model = quick(missing_values=np.nan).fit(X[:100]).partial_fit(first)  # as the message says
    assert np.isfinite(model.score(X))


# -- parameters that change on the way --------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["partial_fit", "fit"])
@pytest.mark.parametrize(
    ("params", "changed", "named"),
    [
        ({"kl_warmup": 0.5}, {"kl_warmup": "auto"}, "kl_warmup"),
        ({"kl_warmup": "auto"}, {"kl_warmup": 0.5}, "kl_warmup"),
        ({"kl_warmup": 0.25}, {"kl_warmup": "auto"}, "kl_warmup"),
        ({"linear_path": None, "kl_warmup": 0.1}, {"kl_warmup": "auto"}, "kl_warmup"),
        ({"linear_path": LinearPath(0.3)}, {"linear_path": "auto"}, "linear_path"),
        ({"linear_path": None}, {"linear_path": "auto"}, "linear_path"),
        ({"linear_path": "auto"}, {"linear_path": None}, "linear_path"),
        ({"n_components": 3}, {"n_components": "auto"}, "n_components"),
    ],
    ids=str,
)
def test_parameters_that_are_set_back_to_auto_are_noticed(params, changed, named, again):
    made = {"n_components": 2, "max_epochs": 1, "linear_path": LinearPath(1.0), "random_state": 0, "warm_start": True, **params}
    model = VAETransformer(**made)
    getattr(model, again)(X)
    before = model.transform(X)
    with pytest.raises(ValueError, match=rf"^{named} changed since the model was built"):
        getattr(model.set_params(**changed), again)(X)
    np.testing.assert_array_equal(model.transform(X), before)
    getattr(model.set_params(**{name: made.get(name, "auto") for name in changed}), again)(X)


@pytest.mark.parametrize("params", [{}, {"linear_path": None}, {"linear_path": "auto"}], ids=str)
def test_parameters_that_are_auto_from_the_start_stay_what_they_were(params):
    model = VAETransformer(2, max_epochs=1, random_state=0, **params).partial_fit(X).partial_fit(X)
    explicit = 0.25 if params.get("linear_path", 0) is None else 0.0
    model.set_params(kl_warmup=explicit).partial_fit(X)  # the same by another name
    model.set_params(kl_warmup="auto").partial_fit(X)
    assert model.n_iter_ == 4


PLAIN = Optimizer("adam")
SWITCHES = {
    "amsgrad on": (PLAIN, Optimizer("adam", amsgrad=True), True),
    "amsgrad off": (Optimizer("adam", amsgrad=True), PLAIN, True),
    "amsgrad of adamw": (Optimizer("adamw"), Optimizer("adamw", amsgrad=True), True),
    "another optimizer": (PLAIN, Optimizer("rmsprop"), True),
    "another class": (PLAIN, Optimizer("adamax"), True),
    "momentum": (Optimizer("sgd", momentum=0.9), Optimizer("sgd"), True),
    "centered": (Optimizer("rmsprop"), Optimizer("rmsprop", centered=True), True),
    "betas": (PLAIN, Optimizer("adam", betas=(0.5, 0.9)), False),
    "weight decay": (PLAIN, Optimizer("adam", weight_decay=0.1), False),
    "eps": (PLAIN, Optimizer("adam", eps=1e-3), False),
    "one by one": (PLAIN, Optimizer("adam", foreach=False), False),
}


@pytest.mark.parametrize(("name", "again"), crossed([*SWITCHES], ["partial_fit", "fit"]))
def test_optimizers_that_change_on_the_way(name, again):
    """An optimizer that gathers other numbers starts anew; arguments that it reads at each step are obeyed from now on."""
    first, second, starts_anew = SWITCHES[name]
    model = quick(optimizer=first, max_epochs=1, warm_start=True)
    n_before = 2
    for _ in range(n_before):
        getattr(model, again)(X)
    getattr(model.set_params(optimizer=second), again)(X)
    steps_of_a_pass = -(-len(X) // BATCH_ROWS)
    state = model._progress.optimizer
    entries = state["state"].values()
    expected = steps_of_a_pass * (1 if starts_anew or again == "fit" else n_before + 1)
    counted = {float(entry["step"]) for entry in entries if "step" in entry}
    assert counted <= {float(expected)}
    assert bool(counted) == (second.name != "sgd")
    assert any("max_exp_avg_sq" in key for entry in entries for key in entry) == bool(second.params.get("amsgrad"))
    assert np.isfinite(model.score(X))
    stayed = quick(optimizer=first, max_epochs=1, warm_start=True)
    for _ in range(n_before + 1):
        getattr(stayed, again)(X)
    assert (name == "one by one") or not np.array_equal(stayed.transform(X), model.transform(X))
