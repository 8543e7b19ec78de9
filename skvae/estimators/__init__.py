"""The estimators: parameters, validation and the scikit-learn contract."""

from skvae.estimators.autoencoder import AutoEncoder
from skvae.estimators.contractive import ContractiveAE
from skvae.estimators.cvae import CVAE
from skvae.estimators.cvae_classifier import CVAEClassifier
from skvae.estimators.cvae_resampler import CVAEResampler
from skvae.estimators.denoising import DenoisingAE
from skvae.estimators.neighbor import NeighborAE
from skvae.estimators.sparse import SparseAE
from skvae.estimators.tdvae import TDVAE
from skvae.estimators.vae import VAETransformer
from skvae.estimators.vqvae import VQVAE

__all__ = [
    "CVAE",
    "TDVAE",
    "VQVAE",
    "AutoEncoder",
    "CVAEClassifier",
    "CVAEResampler",
    "ContractiveAE",
    "DenoisingAE",
    "NeighborAE",
    "SparseAE",
    "VAETransformer",
]
