"""How strongly an encoder reacts to its input: squared Frobenius norms of Jacobians, one value per row.

All but the formula for a single layer go through the pullback of the encoder, v to J^T v: its forward pass sees the batch
as it always does, dropout included, and only the pullback is mapped over vectors. Results can be differentiated again, and
`torch.no_grad` around a call does not keep it from differentiating inside. Codes are returned, too, so that a loss needs no
second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Encode = Callable[[Tensor], Tensor]


def layer_jacobian_norm(slope: Tensor, weight: Tensor) -> Tensor:
    r"""Squared norm of the Jacobian of one layer, :math:`f(W x + b)`.

    .. math::
        \|J(x)\|_F^2 = \sum_j f'(h_j)^2 \|W_j\|^2, \quad h = W x + b

    Parameters
    ----------
    slope : Tensor of shape (n, n_components)
        Slopes :math:`f'(h)` of the activation.
    weight : Tensor of shape (n_components, n_features)

    Returns
    -------
    Tensor of shape (n,)

    Examples
    --------
    >>> import torch
    >>> from skvae.functional import layer_jacobian_norm
    >>> layer_jacobian_norm(torch.tensor([[1.0, 0.5]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    tensor([26.])
    """
    return slope.square() @ weight.square().sum(-1)


def layer_jacobian_change(slope: Tensor, moved: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of the Jacobian of one layer and of its change between two inputs.

    Parameters
    ----------
    slope, moved : Tensor of shape (n, n_components)
        Slopes of the activation at the two inputs.
    weight : Tensor of shape (n_components, n_features)

    Returns
    -------
    norm, change : Tensor of shape (n,)
    """
    return layer_jacobian_norm(slope, weight), layer_jacobian_norm(moved - slope, weight)


def jacobian(encode: Encode, x: Tensor) -> Tensor:
    """Jacobian of an encoder at every row.

    Parameters
    ----------
    encode : callable
        Maps ``(n, n_features)`` to ``(n, n_components)``, row by row.
    x : Tensor of shape (n, n_features)

    Returns
    -------
    Tensor of shape (n, n_components, n_features)
    """
    products, _ = _pull_back(encode, x.unsqueeze(0), None)
    return products[:, 0].movedim(0, 1)


def jacobian_norm(encode: Encode, x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norm of the Jacobian of an encoder, exactly, in `n_components` backward passes.

    Parameters
    ----------
    encode : callable
        Maps ``(n, n_features)`` to ``(n, n_components)``, row by row.
    x : Tensor of shape (n, n_features)

    Returns
    -------
    norm : Tensor of shape (n,)
    code : Tensor of shape (n, n_components)
        Of the rows themselves.
    """
    products, code = _pull_back(encode, x.unsqueeze(0), None)
    return _squared_norm(products[:, 0]), code


def jacobian_change(encode: Encode, x: Tensor, perturbation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared norms of the Jacobian of an encoder and of its change when the input is perturbed, exactly.

    Parameters
    ----------
    encode : callable
        Maps ``(n, n_features)`` to ``(n, n_components)``, row by row.
    x, perturbation : Tensor of shape (n, n_features)

    Returns
    -------
    norm, change : Tensor of shape (n,)
    code : Tensor of shape (n, n_components)
        Of the rows themselves.
    """
    products, code = _pull_back(encode, torch.stack([x, x + perturbation]), None)
    return _squared_norm(products[:, 0]), _squared_norm(products[:, 1] - products[:, 0]), code


def hutchinson_norm(encode: Encode, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    r"""Unbiased estimate of the squared norm of the Jacobian of an encoder, in one backward pass per probe.

    The mean of :math:`\|J^\top v\|^2` over standard normal :math:`v` is :math:`\operatorname{tr} J J^\top` [1]_.

    Parameters
    ----------
    encode : callable
        Maps ``(n, n_features)`` to ``(n, n_components)``, row by row.
    x : Tensor of shape (n, n_features)
    probes : Tensor of shape (n, n_probes, n_components)
        Standard normal draws.

    Returns
    -------
    norm : Tensor of shape (n,)
    code : Tensor of shape (n, n_components)
        Of the rows themselves.

    References
    ----------
    .. [1] Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
       Communications in Statistics 19, 1990.
    """
    products, code = _pull_back(encode, x.unsqueeze(0), probes / probes.shape[1] ** 0.5)
    return _squared_norm(products[:, 0]), code


def hutchinson_change(encode: Encode, x: Tensor, perturbation: Tensor, probes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unbiased estimates of the squared norms of the Jacobian and of its change when the input is perturbed.

    Parameters
    ----------
    encode : callable
        Maps ``(n, n_features)`` to ``(n, n_components)``, row by row.
    x, perturbation : Tensor of shape (n, n_features)
    probes : Tensor of shape (n, n_probes, n_components)
        Standard normal draws.

    Returns
    -------
    norm, change : Tensor of shape (n,)
    code : Tensor of shape (n, n_components)
        Of the rows themselves.
    """
    products, code = _pull_back(encode, torch.stack([x, x + perturbation]), probes / probes.shape[1] ** 0.5)
    return _squared_norm(products[:, 0]), _squared_norm(products[:, 1] - products[:, 0]), code


def _pull_back(encode: Encode, points: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Products of vectors with the Jacobians of an encoder.

    Parameters
    ----------
    encode : callable
    points : Tensor of shape (n_points, n, n_features)
        They meet the same dropout, lest its noise pass for a change of the Jacobian.
    probes : Tensor of shape (n, n_vectors, n_components) or None
        Vectors for every row; all unit vectors by default.

    Returns
    -------
    products : Tensor of shape (n_vectors, n_points, n, n_features)
    code : Tensor of shape (n, n_components)
        At the first point.
    """

    def several(x: Tensor) -> Tensor:
        if len(x) == 1:  # no need to ask of a network that it can be mapped
            return encode(x[0]).unsqueeze(0)
        codes: Tensor = torch.func.vmap(encode, randomness="same")(x)
        return codes

    code, pull, *_ = torch.func.vjp(several, points)
    if probes is None:
        units = torch.eye(code.shape[-1], dtype=code.dtype, device=code.device)
        vectors = units[:, None, None].expand(-1, *code.shape)
    else:
        vectors = probes.movedim(1, 0).unsqueeze(1).expand(-1, *code.shape)
    return torch.func.vmap(pull)(vectors)[0], code[0]


def _squared_norm(products: Tensor) -> Tensor:
    """Sum of squares over vectors and features."""
    return products.square().sum((0, -1))
