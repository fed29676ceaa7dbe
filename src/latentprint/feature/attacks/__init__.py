"""Attacks of the feature channel: `latentprint.feature.attacks.registry` names them all."""
