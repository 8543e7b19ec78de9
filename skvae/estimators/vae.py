"""The variational autoencoder."""

from __future__ import annotations

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skvae import inference
from skvae.estimators._base import OF_FRAMES
from skvae.estimators._continuous import LINEAR_PATH
from skvae.estimators._docs import document
from skvae.estimators._fit import AUTO
from skvae.estimators._latent import LatentWalksMixin
from skvae.estimators._specs import as_argument, resolve
from skvae.estimators._variational import PRIOR, VariationalAutoEncoder
from skvae.modules import VAEModule


@document
class VAETransformer(LatentWalksMixin, VariationalAutoEncoder):
    r"""Variational autoencoder: a Gaussian code with a prior, the standard normal one by default [1]_.

    Encoder and decoder maximize the evidence lower bound. The scale of the likelihood's noise is estimated along with
    them [2]_, which balances reconstruction and KL by itself. `transform` gives the posterior mean, so that codes are
    deterministic; `sample` draws from the prior; `score_samples` is the importance-weighted estimate [3]_ of the
    log-likelihood, whatever `beta`.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Size of the code; "auto" is the square root of the number of columns, but at least 2, and of mixed frames four times as
        much, or one for each column where that is less.
    beta : float, default=1.0
        Weight of the KL term [4]_; 1 gives the evidence lower bound.
    kl_warmup : float or "auto", default="auto"
        Fraction of the run over which that weight, and C, grow from 0; "auto" is 0 beside a linear path, whose start a ramp would
        undo, and 0.25 without.
    capacity : float or None, default=None
        Nats at which the KL is held, by the penalty ``beta * |KL - C|`` with C growing from 0 to `capacity` [5]_.
    n_draws : int, default=1
        Draws of the code per row and training step.
    prior : {"auto", "standard", "mixture", "vamp", "flow"} or PriorSpec, default="auto"
        Prior of the code: standard normal, or one that is trained with the networks: a mixture, that of the posteriors of
        learned rows, or an invertible map of a simpler one. `MixturePrior`, `VampPrior` and `FlowPrior` have the details. "auto"
        is standard normal and, of data frames of mixed columns, a mixture of one distribution for every 100 rows, of 20 at most.
    %(architecture)s
    %(training)s

    Attributes
    ----------
    prior_ : PriorSpec
        The prior, which says what "auto" was.
    kl_per_component_ : ndarray of shape (n_components_,)
        Mean KL of each component from the prior, in nats, over training rows by their weights; over 2,048 of them, evenly
        spaced, where there are more.
    n_active_units_ : int
        Components whose posterior mean varies over the same rows, with a variance above 0.01 [3]_.
    %(fitted)s

    See Also
    --------
    AutoEncoder : Deterministic code, with a density fitted afterwards.
    sklearn.decomposition.FactorAnalysis : The linear special case.

    References
    ----------
    .. [1] Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014.
    .. [2] Rybkin et al., "Simple and effective VAE training with calibrated decoders", ICML 2021.
    .. [3] Burda et al., "Importance weighted autoencoders", ICLR 2016.
    .. [4] Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational framework", ICLR 2017.
    .. [5] Burgess et al., "Understanding disentangling in beta-VAE", 2018, arXiv:1804.03599.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> X, _ = load_wine(return_X_y=True)
    >>> vae = VAETransformer(n_components=2, max_epochs=20, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.sample(5).shape, vae.score_samples(X).shape
    ((178, 2), (5, 13), (178,))
    """

    _module_class = VAEModule
    _takes_frames = True

    _parameter_constraints = {
        **VariationalAutoEncoder._parameter_constraints,
        "linear_path": LINEAR_PATH,
        "prior": [StrOptions({AUTO}), *PRIOR],
        **OF_FRAMES,
    }

    def __init__(
        self,
        n_components="auto",
        *,
        beta=1.0,
        kl_warmup="auto",
        capacity=None,
        n_draws=1,
        prior="auto",
        hidden_layer_sizes=(128, 64),
        activation="relu",
        encoder=None,
        decoder=None,
        linear_path="auto",
        image_shape=None,
        likelihood="auto",
        missing_values="auto",
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
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.capacity = capacity
        self.n_draws = n_draws
        self.prior = prior
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.linear_path = linear_path
        self.image_shape = image_shape
        self.likelihood = likelihood
        self.missing_values = missing_values
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

    def _module_arguments(self, n_features):
        is_open = isinstance(self.prior, str) and self.prior == AUTO
        if not is_open and resolve("prior", self.prior).needs_condition:
            raise ValueError(f"prior={self.prior!r} needs conditions, of which VAETransformer has none: use CVAE.")
        return {**super()._module_arguments(n_features), "prior": AUTO if is_open else as_argument("prior", self.prior)}

    def posterior(self, X):
        """Posterior of the code.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        mean, std : ndarray of shape (n_samples, n_components_)
            Mean and standard deviation of q(z|x).
        """
        table, device = self._ready(X)
        mean, log_var = inference.posterior(self.module_, table, device)
        return mean.astype(table.dtype, copy=False), np.exp(0.5 * log_var).astype(table.dtype, copy=False)
