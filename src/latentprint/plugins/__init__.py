"""Networks that others published, behind the contracts of this package: one folder a publisher, imported on use."""
