"""What others publish that this package can use, where, and under which terms. Nothing of it is downloaded here."""

from __future__ import annotations

from typing import NamedTuple

from latentprint.models.published import FACE_API, HUMAN, MODELS, Package


class Card(NamedTuple):
    """A file or set of files of another publisher."""

    name: str
    files: str
    publisher: str
    terms: str
    command: str


def _faces(package: Package, files: str, terms: str) -> Card:
    return Card(", ".join(package.assets), files, f"{package.registry}, {package.name} {package.version}",
                f"{package.licence}; {terms}", f"{package.get}; {package.convert}")


CARDS = (
    _faces(FACE_API, "face_recognition, face_landmark_68 and face_expression in its folder model",
           "the recogniser is dlib's, in bytes, trained on FaceScrub, VGG-Face and web images; the others on faces "
           "that are not named; training sets have terms of their own"),
    _faces(HUMAN, "faceres and blazeface in its folder models",
           "faceres is converted from av-savchenko/HSE_FaceRec_tf, trained on VGGFace2 and IMDB faces; training sets "
           "have terms of their own"),
    _faces(MODELS, "dlib_face_recognition_resnet_model_v1.dat",
           "dlib's recogniser in full precision, by Davis King, public domain; training sets have terms of their own; "
           "the package's 68-landmark file must not be used commercially and is not read"),
    Card("REFace", "last.ckpt", "huggingface.co/Sanoojan/REFace", "weights CC BY-NC 4.0",
         "latentprint convert reface last.ckpt --out assets-reface"),
    Card("Stable Diffusion", "unet/, vae/, scheduler/", "huggingface.co, any diffusers folder of version 1 or 2",
         "CreativeML Open RAIL-M", "latentprint convert diffusers FOLDER --out assets-sd"),
    Card("ArcFace, CosFace", "backbone.pth", "github.com/deepinsight/insightface, recognition/arcface_torch",
         "weights for non-commercial research",
         "latentprint convert recogniser backbone.pth --architecture iresnet100 --out assets-arc"),
    Card("IR-SE50, MobileFaceNet", "model_ir_se50.pth, model_mobilefacenet.pth",
         "github.com/TreB1eN/InsightFace_Pytorch", "MIT",
         "latentprint convert recogniser model_ir_se50.pth --architecture ir-se50 --out assets-arc"),
    Card("AdaFace", "adaface_ir50_*.ckpt, adaface_ir101_*.ckpt", "github.com/mk-minchul/AdaFace", "MIT",
         "latentprint convert recogniser adaface_ir101_webface12m.ckpt --architecture adaface-ir101 --out assets-arc"),
    Card("YuNet", "face_detection_yunet_2023mar.onnx", "github.com/opencv/opencv_zoo", "MIT",
         "latentprint align PHOTOS --detector face_detection_yunet_2023mar.onnx --out aligned"),
)
