"""The template channel: what a stored face-recognition template gives away."""
