"""The contractive autoencoder."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions

from skvae import inference
from skvae.estimators._base import OF_NUMBERS, BaseAutoEncoder
from skvae.estimators._docs import document
from skvae.estimators.autoencoder import AutoEncoder
from skvae.modules import JACOBIANS, ContractiveModule, can_tie, layer_sizes, resolve_networks


@document
class ContractiveAE(AutoEncoder):
    r"""Contractive autoencoder: a code that hardly moves when a row is perturbed.

    The loss adds to the reconstruction of :class:`~skvae.AutoEncoder` the squared norm of the Jacobian of the encoder at
    every row [1]_, in standardized units:

    .. math:: d(x, \hat x) + \lambda\,\|J(x)\|_F^2, \quad J(x) = \partial z / \partial x

    Reconstruction keeps the directions in which rows differ; the penalty flattens all others, so that codes follow the
    manifold of the rows and ignore what leads away from it. With ``hessian > 0`` the penalty of the higher order
    contractive autoencoder [2]_, :math:`\gamma\,\|J(x) - J(x + \epsilon)\|_F^2`, also keeps the Jacobian from changing
    between neighbors.

    ``decoder="auto"``, the default here, ties the decoder to the encoder wherever it can mirror it: that is ``decoder="tied"``
    with perceptrons, and with convolutions without residual blocks whose `upsampling` is "transposed". An encoder that shrinks
    its code in front of a decoder that enlarges it again would lower the penalty and contract nothing; where weights are not
    tied, it can.

    The autoencoder of [1]_ has one layer and a sigmoid: ``hidden_layer_sizes=()`` and ``code_activation="sigmoid"``.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Size of the code; "auto" is the square root of the number of columns, but at least 2.
    contraction : float, default=0.1
        Weight :math:`\lambda` of the squared norm of the Jacobian; 0 leaves it out.
    jacobian : {"auto", "analytic", "exact", "hutchinson"}, default="auto"
        How that norm is found. "analytic" is a formula for encoders of one layer. "exact" takes a backward pass per
        component. "hutchinson" estimates it without bias from a backward pass per probe. "auto" is "analytic" where that
        is possible, else "exact" for up to 32 components and "hutchinson" for more.
    n_probes : int, default=1
        Random vectors per row and step of "hutchinson".
    hessian : float, default=0.0
        Weight :math:`\gamma` of the change of the Jacobian; 0 leaves it out. Linear encoders have no such change.
    hessian_noise : float, default=0.1
        Standard deviation of :math:`\epsilon`, in standardized units.
    code_activation : {"identity", "sigmoid", "tanh"}, default="identity"
        Activation of the code.
    decoder : MLP, Conv, Net, "tied", "auto" or None, default="auto"
        Specification of the decoder. None mirrors the encoder; "tied" has it use the encoder's weights, too,
        transposed, with biases of its own; "auto" ties it where that is possible, and mirrors the encoder elsewhere.
    %(architecture)s
    density : density estimator or None, default=None
        Density of the codes, as in :class:`~skvae.AutoEncoder`.
    %(training)s

    Attributes
    ----------
    density_ : estimator
        The fitted density of the codes.
    %(fitted)s

    See Also
    --------
    AutoEncoder : The same without the penalty.
    VAETransformer : Variational autoencoder, with a probabilistic code.

    Notes
    -----
    An encoder with ``normalization="batch"`` is refused: it makes codes depend on the other rows of a batch, and the Jacobian of
    a row is not defined. Scores do not contain the penalty.

    References
    ----------
    .. [1] Rifai et al., "Contractive auto-encoders: explicit invariance during feature extraction", ICML 2011.
    .. [2] Rifai et al., "Higher order contractive auto-encoder", ECML PKDD 2011.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import ContractiveAE
    >>> X, _ = load_wine(return_X_y=True)
    >>> weak = ContractiveAE(2, contraction=0.01, max_epochs=20, random_state=0).fit(X)
    >>> strong = ContractiveAE(2, contraction=1.0, max_epochs=20, random_state=0).fit(X)
    >>> bool(strong.jacobian_norm(X).mean() < weak.jacobian_norm(X).mean())
    True
    """

    _module_class = ContractiveModule
    _takes_frames = False

    _parameter_constraints = {
        **{name: takes for name, takes in AutoEncoder._parameter_constraints.items() if name != "linear_path"},
        **OF_NUMBERS,
        "contraction": [Interval(Real, 0, None, closed="left")],
        "jacobian": [StrOptions(set(JACOBIANS))],
        "n_probes": [Interval(Integral, 1, None, closed="left")],
        "hessian": [Interval(Real, 0, None, closed="left")],
        "hessian_noise": [Interval(Real, 0, None, closed="neither")],
        "code_activation": [StrOptions({"identity", "sigmoid", "tanh"})],
        "decoder": [StrOptions({"auto", "tied"}), *BaseAutoEncoder._parameter_constraints["decoder"]],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        contraction=0.1,
        jacobian="auto",
        n_probes=1,
        hessian=0.0,
        hessian_noise=0.1,
        code_activation="identity",
        hidden_layer_sizes=(128, 64),
        activation="relu",
        encoder=None,
        decoder="auto",
        image_shape=None,
        likelihood="gaussian",
        missing_values=None,
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
        super().__init__(
            n_components,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            encoder=encoder,
            decoder=decoder,
            linear_path=None,  # a contraction has no linear special case to begin at
            image_shape=image_shape,
            likelihood=likelihood,
            missing_values=missing_values,
            density=density,
            learning_rate=learning_rate,
            optimizer=optimizer,
            batch_size=batch_size,
            max_epochs=max_epochs,
            early_stopping=early_stopping,
            n_score_draws=n_score_draws,
            warm_start=warm_start,
            device=device,
            precision=precision,
            random_state=random_state,
            verbose=verbose,
            callbacks=callbacks,
        )
        self.contraction = contraction
        self.jacobian = jacobian
        self.n_probes = n_probes
        self.hessian = hessian
        self.hessian_noise = hessian_noise
        self.code_activation = code_activation

    def jacobian_norm(self, X):
        """Norm of the Jacobian of the code at rows: how strongly it reacts to small perturbations of them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        norm : ndarray of shape (n_samples,)
            Exact Frobenius norms, with respect to rows in standardized units.
        """
        table, device = self._ready(X)
        return inference.jacobian_norm(self.module_, table, device)

    def _networks(self) -> tuple[Any, Any]:
        if self.decoder != "auto":
            return super()._networks()
        given = layer_sizes(self.hidden_layer_sizes), self.activation, self.image_shape_, self._code_size
        encoder, mirror = resolve_networks(self.encoder, None, *given)
        return encoder, "tied" if can_tie(encoder) else mirror

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        return {
            **super()._module_arguments(n_features),
            "code_activation": self.code_activation,
            "contraction": float(self.contraction),
            "jacobian": self.jacobian,
            "n_probes": int(self.n_probes),
            "hessian": float(self.hessian),
            "hessian_noise": float(self.hessian_noise),
        }

    @property
    def _is_linear(self) -> bool:
        return super()._is_linear and self.code_activation == "identity"
