"""Autoencoders that behave like any other scikit-learn estimator."""

from skvae.estimators import AutoEncoder, VAETransformer
from skvae.modules import Net

__version__ = "0.1.0"

__all__ = ["AutoEncoder", "Net", "VAETransformer"]
