"""The feature channel: what activations sent from an edge device to a cloud give away about the images."""
