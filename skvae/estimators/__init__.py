"""The estimators: parameters, validation and the scikit-learn contract."""

from skvae.estimators.autoencoder import AutoEncoder
from skvae.estimators.contractive import ContractiveAE
from skvae.estimators.cvae import CVAE
from skvae.estimators.denoising import DenoisingAE
from skvae.estimators.sparse import SparseAE
from skvae.estimators.vae import VAETransformer

__all__ = ["CVAE", "AutoEncoder", "ContractiveAE", "DenoisingAE", "SparseAE", "VAETransformer"]
