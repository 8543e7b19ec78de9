"""The plain autoencoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils._param_validation import HasMethods

from skvae import inference
from skvae.data import Table
from skvae.estimators._base import OF_FRAMES
from skvae.estimators._continuous import LINEAR_PATH, ContinuousAutoEncoder
from skvae.estimators._density import (
    GaussianDensity,
    check_density,
    code_moments,
    fit_density,
    sample_density,
)
from skvae.estimators._docs import document
from skvae.estimators._fit import FitRun
from skvae.estimators._mixture import choose_density
from skvae.modules import AutoEncoderModule
from skvae.runtime.randomness import Stream

NOISE_ROWS = 16384  # rows that the noise of the generative model is fitted to
DENSITY_CODES = 2**14  # evenly spaced ones, that the density is fitted to where nobody asks for another one
DENSITY_ROWS = 200  # rows that partial_fit must bring for a density of the user's own to be fitted again


@document
class AutoEncoder(ContinuousAutoEncoder):
    r"""Autoencoder: a deterministic code from which rows are reconstructed.

    Encoder and decoder are trained to reconstruct standardized rows. The code has no prior: after training a density is
    fitted to the training codes (ex-post density estimation [2]_) and the noise of the likelihood is fitted with the
    decoder frozen. `sample` draws from this generative model and `score_samples` estimates its log-likelihood, so that
    scores compare between code sizes; the reconstruction error alone does not, since it only ever falls as the code grows.

    Without hidden layers the code spans the subspace of PCA [1]_ of the standardized rows. With
    ``likelihood=Gaussian(noise="shared")`` all columns are standardized by one scale, as in PCA of the rows as they are.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Size of the code; "auto" is the square root of the number of columns, but at least 2.
    %(architecture)s
    density : density estimator or None, default=None
        Density of the codes: any scikit-learn estimator with `fit`, `score_samples` and `sample`, such as GaussianMixture or
        KernelDensity. None is one Gaussian with a full covariance; `fit` takes a mixture of several where that describes the
        codes better, or is decoded to rows more like those of training. ``GaussianMixture(1)`` is one in any case.
    %(training)s

    Attributes
    ----------
    density_ : estimator
        The fitted density of the codes.
    %(fitted)s

    See Also
    --------
    VAETransformer : Variational autoencoder, with a probabilistic code.
    sklearn.decomposition.PCA : The linear special case.

    References
    ----------
    .. [1] Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313, 2006.
    .. [2] Ghosh et al., "From variational to deterministic autoencoders", ICLR 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import AutoEncoder
    >>> X, _ = load_wine(return_X_y=True)
    >>> ae = AutoEncoder(n_components=2, max_epochs=20, random_state=0).fit(X)
    >>> ae.transform(X).shape, ae.reconstruct(X).shape, ae.sample(5).shape
    ((178, 2), (178, 13), (5, 13))
    """

    _module_class = AutoEncoderModule
    _takes_frames = True

    _parameter_constraints = {
        **ContinuousAutoEncoder._parameter_constraints,
        "linear_path": LINEAR_PATH,
        **OF_FRAMES,
        "density": [HasMethods(["fit", "score_samples", "sample"]), None],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        hidden_layer_sizes=(128, 64),
        activation="relu",
        encoder=None,
        decoder=None,
        linear_path="auto",
        image_shape=None,
        likelihood="auto",
        missing_values="auto",
        density=None,
        learning_rate="auto",
        optimizer="adam",
        batch_size="auto",
        max_epochs="auto",
        early_stopping=False,
        n_score_draws=64,
        warm_start=False,
        device="auto",
        precision="float32",
        random_state=None,
        verbose=0,
        callbacks=None,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.linear_path = linear_path
        self.image_shape = image_shape
        self.likelihood = likelihood
        self.missing_values = missing_values
        self.density = density
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.n_score_draws = n_score_draws
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks

    def _make_table(self, run: FitRun, kept: Any, weight: np.ndarray | None) -> tuple[Table, dict[str, Any]]:
        check_density(self.density, weight)
        return super()._make_table(run, kept, weight)

    def _measure(self, run: FitRun) -> dict[str, Any]:
        """Fit the generative model behind `sample` and `score_samples`."""
        table = run.table
        if self.density is None:  # for which a part of many rows is enough
            table = table.take(slice(None, None, -(-table.n_rows // DENSITY_CODES)))
        codes = inference.training_codes(run.module, table, run.device).astype(np.float64)
        moments = run.module.prior.fit(*code_moments(codes, table.weight), share=run.share)
        density = getattr(self, "density_", None)
        if self.density is None and run.single_pass:
            density = GaussianDensity.of(*moments)
        elif self.density is None:
            spread = run.module.likelihood.units.state["spread"]

            def decode(drawn: np.ndarray) -> np.ndarray:
                return inference.decode(run.module, drawn, run.device)

            density = choose_density(codes, table.weight, moments, decode, spread)
        elif run.share == 1.0 or len(codes) >= DENSITY_ROWS:
            density = fit_density(self.density, codes, table.weight, run.progress.stream(Stream.MEASUREMENT, of_pass=True))
        inference.fit_noise(run.module, run.table, run.device, max_rows=NOISE_ROWS, share=run.share)
        return {"density_": density}

    def _sample_codes(self, n_samples: int, seed: int) -> np.ndarray:
        return sample_density(self.density_, n_samples, seed)

    def _log_density(self):
        return None if isinstance(self.density_, GaussianDensity) else self.density_.score_samples
