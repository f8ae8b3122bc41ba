"""The networks: the autoencoder of images and the model that adds the latent flows to it."""

from ffrl.models.autoencoder import MLPAutoencoder, Posterior
from ffrl.models.classifier import SequenceClassifier
from ffrl.models.flow_model import FlowModel

__all__ = ["FlowModel", "MLPAutoencoder", "Posterior", "SequenceClassifier"]
