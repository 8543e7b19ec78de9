import re

import pandas as pd
import pytest
from conftest import ALL_ESTIMATORS, few_of, labels_for
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvae import CVAE, TDVAE, VQVAE, AutoEncoder, ContractiveAE, DenoisingAE, LinearPath, NeighborAE, VAETransformer

NOT_EXACT = (
    "weights and repeated rows are compared at 1e-7, which training in single precision on shuffled batches cannot meet; "
    "test_contract compares them in full batches at 1e-4"
)


def expected_failed_checks(estimator):
    return {
        "check_sample_weight_equivalence_on_dense_data": NOT_EXACT,
        "check_sample_weight_equivalence_on_sparse_data": NOT_EXACT,
    }


# The choice of a weight decay takes most of the time, as learning a prior of discrete codes does; neighbors and sequences take
# long runs.
_SHORT = {"linear_path": LinearPath(1.0), "max_epochs": 10}
SHORTER = {
    AutoEncoder: _SHORT,
    DenoisingAE: _SHORT,
    VAETransformer: _SHORT,
    CVAE: _SHORT,
    ContractiveAE: {"max_epochs": 10},
    NeighborAE: {"max_epochs": 10},
    TDVAE: {"max_epochs": 5},
    VQVAE: {"max_epochs": 10, "code_prior": "histogram"},
}


@parametrize_with_checks([cls() for cls in ALL_ESTIMATORS if cls not in SHORTER], expected_failed_checks=expected_failed_checks)
def test_sklearn_checks_at_the_defaults(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([cls() for cls in SHORTER], expected_failed_checks=expected_failed_checks)
def test_sklearn_checks_at_all_defaults(estimator, check):
    check(estimator)


@parametrize_with_checks([cls(**params) for cls, params in SHORTER.items()], expected_failed_checks=expected_failed_checks)
def test_sklearn_checks_of_shorter_fits(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_transformer_get_feature_names_out,
        checks.check_transformer_get_feature_names_out_pandas,
        checks.check_set_output_transform,
        checks.check_set_output_transform_pandas,
        checks.check_set_output_transform_polars,
        checks.check_global_output_transform_pandas,
        checks.check_global_set_output_transform_polars,
        checks.check_dataframe_column_names_consistency,
        checks.check_param_validation,
        checks.check_n_features_in,
        checks.check_get_feature_names_out_error,
    ],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("any_estimator_class", few_of(ALL_ESTIMATORS), indirect=True)
def test_checks_that_sklearn_keeps_to_itself(check, any_estimator_class):
    # Frames and names go the same way whatever the prior of codes is, whose training takes most of the time.
    params = {"code_prior": "histogram"} if any_estimator_class is VQVAE else {}
    check(any_estimator_class.__name__, any_estimator_class(max_epochs=2, **params))


def test_columns_in_another_order_are_refused(quick, X):
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = quick().fit(frame)
    with pytest.raises(ValueError, match=r"[Ff]eature names"):
        model.transform(frame[list("edcba")])


def test_documentation_names_every_attribute(any_estimator_class, X):
    doc = any_estimator_class.__doc__
    assert "%(" not in doc
    params = SHORTER[TDVAE] if any_estimator_class is TDVAE else {}  # others choose a decay, whose curve is an attribute
    fitted = any_estimator_class(**params).fit(X, *labels_for(any_estimator_class, X))
    attributes = {name for name in dir(fitted) if name.endswith("_") and not name.startswith("_")}
    for name in attributes:
        assert re.search(rf"^    (\w+, )*{name}(, \w+)* : ", doc, re.M), name


# Without a tie a contraction can be dodged; a dictionary is wide and has one layer.
# A decoder must take in the label before the code carries it, and is not tied to an encoder that does not take the label,
# nor to one that leads to a codebook. A sequence is many rows, read by a network of one width.
OWN_DEFAULTS = {
    ("ContractiveAE", "decoder"),
    ("SparseAE", "hidden_layer_sizes"),
    ("SparseAE", "n_components"),
    ("CVAE", "kl_warmup"),
    ("CVAE", "decoder"),
    ("NeighborAE", "learning_rate"),
    ("NeighborAE", "max_epochs"),
    ("VQVAE", "decoder"),
    ("TDVAE", "n_components"),
    ("TDVAE", "encoder"),
    ("TDVAE", "decoder"),
    ("TDVAE", "kl_warmup"),
    ("TDVAE", "hidden_layer_sizes"),
    ("TDVAE", "learning_rate"),
    ("TDVAE", "batch_size"),
    ("CVAE", "prior"),
    ("TDVAE", "max_epochs"),
    # Those that take tables of numbers alone.
    *((name, "likelihood") for name in ("ContractiveAE", "SparseAE", "TDVAE", "VQVAE")),
    *((name, "missing_values") for name in ("ContractiveAE", "SparseAE")),
}


def test_shared_parameters_are_worded_alike():
    texts = {}
    for cls in ALL_ESTIMATORS:
        for name, text in re.findall(r"^    (\w+) : ([^\n]*\n(?:        [^\n]*\n)+)", cls.__doc__, re.M):
            if (cls.__name__, name) not in OWN_DEFAULTS:
                texts.setdefault(name, set()).add(text)
    shared = set.intersection(*(set(cls().get_params(deep=False)) for cls in ALL_ESTIMATORS))
    assert {name: len(texts[name]) for name in shared if name in texts} == {name: 1 for name in shared if name in texts}


def test_defaults_agree_between_estimators():
    defaults = {}
    for cls in ALL_ESTIMATORS:
        for name, value in cls().get_params(deep=False).items():
            if (cls.__name__, name) not in OWN_DEFAULTS:
                defaults.setdefault(name, []).append(value)
    assert {name for name, values in defaults.items() if any(v != values[0] for v in values)} == set()
