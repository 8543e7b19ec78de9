"""Autoencoders that behave like any other scikit-learn estimator."""

from skvae.anomaly import AnomalyDetector
from skvae.clustering import AutoencoderClusterer
from skvae.data import join_windows, sliding_windows
from skvae.estimators import (
    CVAE,
    TDVAE,
    VQVAE,
    AutoEncoder,
    ContractiveAE,
    CVAEClassifier,
    CVAEResampler,
    DenoisingAE,
    NeighborAE,
    SparseAE,
    VAETransformer,
)
from skvae.imputation import AutoencoderImputer
from skvae.modules import (
    MLP,
    BatchTopK,
    Bernoulli,
    Codebook,
    Conv,
    DefaultNet,
    FlowPrior,
    Gaussian,
    Laplace,
    LinearPath,
    Mixed,
    MixturePrior,
    Net,
    Poisson,
    Recurrent,
    TopK,
    VampPrior,
)
from skvae.pipeline import reconstruct, sample, score_anomaly, step_score
from skvae.together import train_together
from skvae.training import CodePrior, EarlyStopping, Optimizer

__version__ = "0.1.0"

__all__ = [
    "CVAE",
    "MLP",
    "TDVAE",
    "VQVAE",
    "AnomalyDetector",
    "AutoEncoder",
    "AutoencoderClusterer",
    "AutoencoderImputer",
    "BatchTopK",
    "Bernoulli",
    "CVAEClassifier",
    "CVAEResampler",
    "CodePrior",
    "Codebook",
    "ContractiveAE",
    "Conv",
    "DefaultNet",
    "DenoisingAE",
    "EarlyStopping",
    "FlowPrior",
    "Gaussian",
    "Laplace",
    "LinearPath",
    "Mixed",
    "MixturePrior",
    "NeighborAE",
    "Net",
    "Optimizer",
    "Poisson",
    "Recurrent",
    "SparseAE",
    "TopK",
    "VAETransformer",
    "VampPrior",
    "join_windows",
    "reconstruct",
    "sample",
    "score_anomaly",
    "sliding_windows",
    "step_score",
    "train_together",
]
