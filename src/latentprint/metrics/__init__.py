"""What reconstructions are measured by: pure functions on tensors, per sample where a sample has a value."""
