"""Face recognisers as InsightFace, CosFace, AdaFace and InsightFace_PyTorch publish them: state dicts by key name."""
