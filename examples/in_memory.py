"""Audit three models in memory. Put your own trained models and photos in the place of these."""
from torchvision.models import resnet18

import latentprint as lp
from latentprint.data.procedural import make_people

private, heldout, public = make_people(range(8), 12), make_people(range(8), 4, 1000), make_people(range(1000, 1100), 3)
classifier, recogniser = resnet18(num_classes=8).eval(), resnet18(num_classes=512).eval()
lp.audit("label", model=classifier, private=private, heldout=heldout, public=public, out="runs/label").show()
lp.audit("template", model=recogniser, private=private, heldout=heldout, public=public, out="runs/template").show()
lp.audit("feature", model=classifier, cut="layer1", private=private, heldout=heldout, out="runs/feature").show()
