"""Published networks of real faces: recognisers, landmarks, expression and a detector (`latentprint convert faces`)."""
