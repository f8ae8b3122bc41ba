"""The networks: the autoencoders of images and the model that adds the latent flows to them."""

from ffrl.models.autoencoder import Autoencoder, MLPAutoencoder, Posterior
from ffrl.models.choice import build_autoencoder
from ffrl.models.classifier import SequenceClassifier
from ffrl.models.convolutional import ConvAutoencoder, LargeConvAutoencoder
from ffrl.models.flow_model import FlowModel
from ffrl.models.latent_flow import LatentFlow

__all__ = [
    "Autoencoder",
    "ConvAutoencoder",
    "FlowModel",
    "LargeConvAutoencoder",
    "LatentFlow",
    "MLPAutoencoder",
    "Posterior",
    "SequenceClassifier",
    "build_autoencoder",
]
