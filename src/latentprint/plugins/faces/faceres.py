"""Human's ``faceres`` (MobileNet of av-savchenko's HSE_FaceRec_tf): embeddings of 1024 entries, age and gender."""

from __future__ import annotations

from torch import Tensor, nn

from latentprint.plugins.faces.layers import conv_of, same_conv
from latentprint.plugins.faces.tensors import Weights, conv_filter, depthwise_filter

SIDE, DIM = 224, 1024
#: Subtracted from blue, green and red, in this order, as bytes.
MEAN = (103.939, 116.779, 123.68)
#: (width, stride) of each depthwise-separable layer.
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
          (1024, 2), (1024, 1))


class FaceresNetwork(nn.Module):
    """``(B, 3, 224, 224)``, values of bytes, to the last layer's mean over space, ``(B, 1024)``, all at least 0."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [same_conv(3, 32, 3, 2), nn.ReLU6()]
        width = 32
        for outer, stride in LAYERS:
            layers += [same_conv(width, width, 3, stride, groups=width), nn.ReLU6(), nn.Conv2d(width, outer, 1),
                       nn.ReLU6()]
            width = outer
        self.trunk = nn.Sequential(*layers)
        self.feats, self.age, self.gender = nn.Linear(DIM, 256), nn.Linear(256, 100), nn.Linear(256, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x).mean((2, 3))

    def age_and_gender(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Of embeddings ``(B, 1024)``: probabilities of 100 ages ``(B, 100)``, and of *male* ``(B, 1)``."""
        features = self.feats(embedding).relu()
        return self.age(features).softmax(1), self.gender(features).sigmoid()


def as_trained(x: Tensor) -> Tensor:
    """Pictures ``(B, 3, H, W)`` in [0, 1] as the network was trained on; Human leaves this step out."""
    return x.flip(1) * 255 - x.new_tensor(MEAN).view(3, 1, 1)


def from_human(tensors: Weights) -> dict[str, Tensor]:
    """The state dict, from the tensors of Human's graph; batch norms are folded in."""
    network = FaceresNetwork()
    state: dict[str, Tensor] = {}
    convs = [name for name, module in network.trunk.named_children() if not isinstance(module, nn.ReLU6)]
    names = ["conv1", *(f"conv_{kind}_{i + 1}" for i in range(len(LAYERS)) for kind in ("dw", "pw"))]
    for place, name in zip(convs, names, strict=True):
        if "_dw_" in name:
            weight = depthwise_filter(tensors[f"{name}/depthwise_kernel"])
            weight = weight * tensors[f"{name}_bn/batchnorm_1/mul"].view(-1, 1, 1, 1)
        else:
            weight = conv_filter(tensors[f"{name}/convolution/merged_input"])
        own = next(key for key, module in network.trunk.named_modules()
                   if module is conv_of(network.trunk.get_submodule(place)))
        state |= {f"trunk.{own}.weight": weight, f"trunk.{own}.bias": tensors[f"{name}_bn/batchnorm_1/sub"]}
    for own, name in (("feats", "feats"), ("age", "age_pred"), ("gender", "gender_pred")):
        state |= {f"{own}.weight": tensors[f"{name}/kernel"].T.contiguous(), f"{own}.bias": tensors[f"{name}/bias"]}
    return state
