"""Autoencoders that behave like any other scikit-learn estimator."""

from skvae.anomaly import AnomalyDetector
from skvae.estimators import (
    CVAE,
    TDVAE,
    VQVAE,
    AutoEncoder,
    ContractiveAE,
    CVAEClassifier,
    CVAEResampler,
    DenoisingAE,
    SparseAE,
    VAETransformer,
)
from skvae.imputation import AutoencoderImputer
from skvae.modules import Conv, Net
from skvae.pipeline import reconstruct, sample, score_anomaly, step_score

__version__ = "0.1.0"

__all__ = [
    "CVAE",
    "TDVAE",
    "VQVAE",
    "AnomalyDetector",
    "AutoEncoder",
    "AutoencoderImputer",
    "CVAEClassifier",
    "CVAEResampler",
    "ContractiveAE",
    "Conv",
    "DenoisingAE",
    "Net",
    "SparseAE",
    "VAETransformer",
    "reconstruct",
    "sample",
    "score_anomaly",
    "step_score",
]
