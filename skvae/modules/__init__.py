"""torch modules: layers, likelihoods and one module per model, which owns its objective."""

from skvae.modules.autoencoder import AutoEncoderModule
from skvae.modules.base import LatentModule, TrainableModule
from skvae.modules.batch import Batch
from skvae.modules.code_prior import CodePrior, HistogramPrior, UniformPrior
from skvae.modules.contractive import JACOBIANS, ContractiveModule
from skvae.modules.convolution import conv_decoder, conv_encoder
from skvae.modules.cvae import PRIORS as CVAE_PRIORS
from skvae.modules.cvae import CVAEModule
from skvae.modules.denoising import CORRUPTIONS, DenoisingModule
from skvae.modules.layers import ACTIVATIONS, NORMALIZATIONS, mlp
from skvae.modules.likelihood import LIKELIHOODS, NOISE_MODES, Bernoulli, Gaussian, Laplace, Likelihood
from skvae.modules.missing import MECHANISMS, MaskModel, MIWAEModule
from skvae.modules.networks import build_networks
from skvae.modules.pixelsnail import PixelSNAILPrior
from skvae.modules.quantizer import CODEBOOKS, SIMILARITIES, VectorQuantizer
from skvae.modules.quantizer import GRADIENTS as STRAIGHT_GRADIENTS
from skvae.modules.recurrent import CELLS, RecurrentNetwork
from skvae.modules.sparse import PENALTIES, SparseModule
from skvae.modules.specs import Conv, Net
from skvae.modules.tdvae import TDVAEModule
from skvae.modules.transformer import TransformerPrior
from skvae.modules.vae import VAEModule
from skvae.modules.vqvae import VQVAEModule

CODE_PRIORS: dict[str, type[CodePrior]] = {
    "transformer": TransformerPrior,
    "pixelsnail": PixelSNAILPrior,
    "histogram": HistogramPrior,
    "uniform": UniformPrior,
}

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "CODEBOOKS",
    "CODE_PRIORS",
    "CORRUPTIONS",
    "CVAE_PRIORS",
    "JACOBIANS",
    "LIKELIHOODS",
    "MECHANISMS",
    "NOISE_MODES",
    "NORMALIZATIONS",
    "PENALTIES",
    "SIMILARITIES",
    "STRAIGHT_GRADIENTS",
    "AutoEncoderModule",
    "Batch",
    "Bernoulli",
    "CVAEModule",
    "CodePrior",
    "ContractiveModule",
    "Conv",
    "DenoisingModule",
    "Gaussian",
    "HistogramPrior",
    "Laplace",
    "LatentModule",
    "Likelihood",
    "MIWAEModule",
    "MaskModel",
    "Net",
    "PixelSNAILPrior",
    "RecurrentNetwork",
    "SparseModule",
    "TDVAEModule",
    "TrainableModule",
    "TransformerPrior",
    "UniformPrior",
    "VAEModule",
    "VQVAEModule",
    "VectorQuantizer",
    "build_networks",
    "conv_decoder",
    "conv_encoder",
    "mlp",
]
