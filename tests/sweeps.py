"""A sweep of one preset, as the store is told of it."""

from vae_bit.programs import Labels

LABELS = Labels("default", "elbo", "adam")


def alone(preset):
    """The variants of a sweep of nothing else."""
    return {LABELS: preset}
