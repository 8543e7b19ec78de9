"""torch modules: layers, likelihoods and one module per model, which owns its objective."""

from skvae.modules.autoencoder import AutoEncoderModule
from skvae.modules.base import LatentModule, TrainableModule
from skvae.modules.batch import Batch, Loss
from skvae.modules.contractive import JACOBIANS, ContractiveModule
from skvae.modules.cvae import CVAEModule
from skvae.modules.denoising import CORRUPTIONS, DenoisingModule
from skvae.modules.donors import Donors, LocalModel, can_lean
from skvae.modules.likelihoods import LIKELIHOODS, NOISE_MODES, Likelihood, LikelihoodSpec, resolve_likelihood
from skvae.modules.likelihoods.bernoulli import Bernoulli, BernoulliLikelihood
from skvae.modules.likelihoods.gaussian import Gaussian, GaussianLikelihood
from skvae.modules.likelihoods.laplace import Laplace, LaplaceLikelihood
from skvae.modules.likelihoods.mixed import Mixed, MixedLikelihood
from skvae.modules.likelihoods.poisson import Poisson, PoissonLikelihood
from skvae.modules.missing import MECHANISMS, MaskModel, MIWAEModule
from skvae.modules.neighbor import NeighborAEModule
from skvae.modules.networks.build import build_networks, can_tie, mirrored, resolve_networks
from skvae.modules.networks.convolution import conv_decoder, conv_encoder
from skvae.modules.networks.layers import ACTIVATIONS, NORMALIZATIONS, mlp
from skvae.modules.networks.recurrent import RecurrentNetwork
from skvae.modules.networks.specs import (
    CELLS,
    MLP,
    Conv,
    DefaultNet,
    Layered,
    LinearPath,
    Net,
    Recurrent,
    asked_of,
    completed,
    convolves,
    layer_sizes,
)
from skvae.modules.priors import (
    PRIORS,
    ActivityPatterns,
    CodedRows,
    ConditionalNormal,
    FittedGaussian,
    Flow,
    FlowPrior,
    MixturePrior,
    NormalMixture,
    PosteriorMixture,
    Prior,
    PriorSpec,
    StandardNormal,
    VampPrior,
    resolve_prior,
)
from skvae.modules.priors.codes import CodePriorModule, HistogramPrior, UniformPrior
from skvae.modules.priors.pixelsnail import PixelSNAILPrior
from skvae.modules.priors.transformer import TransformerPrior
from skvae.modules.quantizer import CODEBOOKS, SIMILARITIES, Codebook, VectorQuantizer
from skvae.modules.quantizer import GRADIENTS as STRAIGHT_GRADIENTS
from skvae.modules.sparse import PENALTIES, BatchTopK, SparseModule, TopK
from skvae.modules.tdvae import TDVAEModule, resolve_recurrent
from skvae.modules.vae import VAEModule
from skvae.modules.vqvae import VQVAEModule

CODE_PRIORS: dict[str, type[CodePriorModule]] = {
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
    "JACOBIANS",
    "LIKELIHOODS",
    "MECHANISMS",
    "MLP",
    "NOISE_MODES",
    "NORMALIZATIONS",
    "PENALTIES",
    "PRIORS",
    "SIMILARITIES",
    "STRAIGHT_GRADIENTS",
    "ActivityPatterns",
    "AutoEncoderModule",
    "Batch",
    "BatchTopK",
    "Bernoulli",
    "BernoulliLikelihood",
    "CVAEModule",
    "CodePriorModule",
    "Codebook",
    "CodedRows",
    "ConditionalNormal",
    "ContractiveModule",
    "Conv",
    "DefaultNet",
    "DenoisingModule",
    "Donors",
    "FittedGaussian",
    "Flow",
    "FlowPrior",
    "Gaussian",
    "GaussianLikelihood",
    "HistogramPrior",
    "Laplace",
    "LaplaceLikelihood",
    "LatentModule",
    "Layered",
    "Likelihood",
    "LikelihoodSpec",
    "LinearPath",
    "LocalModel",
    "Loss",
    "MIWAEModule",
    "MaskModel",
    "Mixed",
    "MixedLikelihood",
    "MixturePrior",
    "NeighborAEModule",
    "Net",
    "NormalMixture",
    "PixelSNAILPrior",
    "Poisson",
    "PoissonLikelihood",
    "PosteriorMixture",
    "Prior",
    "PriorSpec",
    "Recurrent",
    "RecurrentNetwork",
    "SparseModule",
    "StandardNormal",
    "TDVAEModule",
    "TopK",
    "TrainableModule",
    "TransformerPrior",
    "UniformPrior",
    "VAEModule",
    "VQVAEModule",
    "VampPrior",
    "VectorQuantizer",
    "asked_of",
    "build_networks",
    "can_lean",
    "can_tie",
    "completed",
    "conv_decoder",
    "conv_encoder",
    "convolves",
    "layer_sizes",
    "mirrored",
    "mlp",
    "resolve_likelihood",
    "resolve_networks",
    "resolve_prior",
    "resolve_recurrent",
]
