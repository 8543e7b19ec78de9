"""torch modules: layers, likelihoods and one module per model, which owns its objective."""

from skvae.modules.autoencoder import AutoEncoderModule
from skvae.modules.base import LatentModule, TrainableModule
from skvae.modules.batch import Batch
from skvae.modules.contractive import JACOBIANS, ContractiveModule
from skvae.modules.convolution import conv_decoder, conv_encoder
from skvae.modules.denoising import CORRUPTIONS, DenoisingModule
from skvae.modules.layers import ACTIVATIONS, NORMALIZATIONS, mlp
from skvae.modules.likelihood import LIKELIHOODS, NOISE_MODES, Bernoulli, Gaussian, Laplace, Likelihood
from skvae.modules.networks import build_networks
from skvae.modules.sparse import PENALTIES, SparseModule
from skvae.modules.specs import Conv, Net
from skvae.modules.vae import VAEModule

__all__ = [
    "ACTIVATIONS",
    "CORRUPTIONS",
    "JACOBIANS",
    "LIKELIHOODS",
    "NOISE_MODES",
    "NORMALIZATIONS",
    "PENALTIES",
    "AutoEncoderModule",
    "Batch",
    "Bernoulli",
    "ContractiveModule",
    "Conv",
    "DenoisingModule",
    "Gaussian",
    "Laplace",
    "LatentModule",
    "Likelihood",
    "Net",
    "SparseModule",
    "TrainableModule",
    "VAEModule",
    "build_networks",
    "conv_decoder",
    "conv_encoder",
    "mlp",
]
