"""Estimates of the class-conditional entropy of features that an encoder can be trained to raise or bound."""
