"""Disentanglement scores: does one code dimension stand for one factor? docs/measures.md compares what they say."""

from ffrl.metrics.disentanglement.dci import DCI, dci
from ffrl.metrics.disentanglement.factor_vae import FactorVAEScore, Sampler, factor_vae_score, sampler_of
from ffrl.metrics.disentanglement.mig import MIG, mig
from ffrl.metrics.disentanglement.sap import SAP, sap

__all__ = ["DCI", "MIG", "SAP", "FactorVAEScore", "Sampler", "dci", "factor_vae_score", "mig", "sampler_of", "sap"]
