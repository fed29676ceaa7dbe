"""A model of the user's own: described in YAML, checked before anything long, asked for scores alone, behind HTTP."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import run_cli
from PIL import Image
from torch import Tensor, nn

from latentprint.config import changed, load_config
from latentprint.data.procedural import make_people
from latentprint.errors import RunFailed, UserError
from latentprint.label.audit import audit_data, ordered
from latentprint.label.check import check_audit, queries
from latentprint.label.presets import PRESETS, LabelConfig
from latentprint.models import outside
from latentprint.models.outside import HttpNetwork, OnnxNetwork
from latentprint.models.paths import beside
from latentprint.models.preprocess import Preprocess
from latentprint.types import Access, AccessDenied
from latentprint.victim import Victim, load_victim

CLASSES = 4


def tiny(**overrides: Any) -> LabelConfig:
    return changed(load_config(LabelConfig, "tiny", presets=PRESETS), overrides, "test")


class Means(nn.Module):
    """A classifier by hand: the mean red, green and blue of a picture, and their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, CLASSES)
        with torch.no_grad():
            self.layer.weight.copy_(torch.cat([10 * torch.eye(3), torch.ones(1, 3)]))
            self.layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean((2, 3)))


# ---- services ----


class Service:
    """Answers requests like `Means`; ``trouble`` maps the number of a request to what goes wrong with it."""

    def __init__(self) -> None:
        self.trouble: Callable[[int], str | None] = lambda n: None
        self.asked: list[dict[str, Any]] = []
        outer, network = self, Means()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                wrong = outer.trouble(len(outer.asked))
                if wrong == "slow":
                    threading.Event().wait(0.5)
                if wrong is not None and wrong.isdigit():
                    self.send_error(int(wrong))
                    return
                if "instances" in body:
                    key, x = "predictions", torch.tensor(body["instances"])
                else:
                    files = [Image.open(io.BytesIO(base64.b64decode(text))) for text in body["images"]]
                    x = torch.stack([torch.from_numpy(np.array(file)).permute(2, 0, 1).float() / 255 for file in files])
                    key = "scores"
                with torch.no_grad():
                    rows = network(x).softmax(1).tolist()
                said = b"<html>" if wrong == "text" else json.dumps({"odd" if wrong == "key" else key: rows}).encode()
                try:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(said)
                except OSError:
                    pass  # whoever asked has gone

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/predict"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(outside, "WAIT", 0.01)
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_service_answers_as_the_network_behind_it(service: Service) -> None:
    x = torch.rand(40, 3, 8, 8)
    expected = Means()(x).softmax(1)
    network = HttpNetwork(service.url)
    assert torch.allclose(network(x), expected, atol=1e-6)
    assert [len(body["instances"]) for body in service.asked] == [32, 8] and network.asked == 40
    eighths = (x * 255).round() / 255
    assert torch.allclose(HttpNetwork(service.url, "png")(eighths), Means()(eighths).softmax(1), atol=1e-5)


@pytest.mark.parametrize(
    ("trouble", "retries", "asked", "message"),
    [
        (lambda n: "503", 2, 3, r"status 503 .*asked 3 times"),
        (lambda n: "404", 2, 1, r"status 404 .*asked 1 times"),
        (lambda n: "slow", 1, 2, r"no answer within 0\.1 s \(asked 2 times\)"),
        (lambda n: "text", 2, 1, "answered something that is not JSON: '<html>'"),
        (lambda n: "key", 2, 1, "answered without a list of numbers an image under 'predictions'"),
    ],
)
def test_what_a_service_gets_wrong(service: Service, trouble: Callable[[int], str | None], retries: int, asked: int,
                                   message: str) -> None:
    service.trouble = trouble
    with pytest.raises(RunFailed, match=message):
        HttpNetwork(service.url, timeout=0.1, retries=retries)(torch.rand(1, 3, 4, 4))
    assert len(service.asked) == asked


def test_a_request_that_failed_once_is_repeated_and_counts_twice(service: Service) -> None:
    service.trouble = lambda n: "500" if n == 1 else None
    network = HttpNetwork(service.url, budget=3)
    assert network(torch.rand(1, 3, 4, 4)).shape == (1, CLASSES) and network.asked == 2
    network(torch.rand(1, 3, 4, 4))
    with pytest.raises(RunFailed, match="3 of the budget of 3 images are asked, and 1 more are needed"):
        network(torch.rand(1, 3, 4, 4))
    assert len(service.asked) == 3


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "WAIT", 0.001)
    with pytest.raises(UserError, match=r"cannot take two 16x16 images: .*no connection \(asked 4 times\)"):
        load_victim("http://127.0.0.1:9/predict", 4, image_size=16, access=Access.SCORES)


# ---- scores alone ----


def export_onnx(path: Path) -> Path:
    torch.onnx.export(Means().eval(), (torch.rand(2, 3, 64, 64),), str(path), dynamo=False, input_names=["x"],
                      dynamic_axes={"x": {0: "n"}})
    return path


def test_an_onnx_file_gives_scores_and_no_gradients(tmp_path: Path) -> None:
    path = export_onnx(tmp_path / "victim.onnx")
    x = torch.rand(3, 3, 64, 64)
    assert torch.allclose(OnnxNetwork(path)(x), Means()(x), atol=1e-5)
    victim = load_victim(str(path), CLASSES, image_size=64, access=Access.SCORES)
    seen = (x - 0.5) / 0.5
    assert torch.allclose(victim(x), Means()(seen).log_softmax(1), atol=1e-5)
    with pytest.raises(AccessDenied):
        victim.features(x)
    with pytest.raises(UserError, match="answers with scores alone, and the attack's stages need gradients: take"):
        load_victim(str(path), CLASSES, image_size=64)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken\.onnx is not an ONNX network"):
        load_victim(str(tmp_path / "broken.onnx"), CLASSES, image_size=64, access=Access.SCORES)


def test_probabilities_are_as_good_as_logits() -> None:
    class Soft(Means):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(1)

    x = torch.rand(5, 3, 8, 8)
    one, other = Victim(Means(), CLASSES), Victim(Soft(), CLASSES, answers="probabilities")
    assert torch.allclose(one.confidence(x), other.confidence(x), atol=1e-6)
    logits = Victim(Means(), CLASSES).logits(x)
    assert torch.allclose(other.logits(x), logits.log_softmax(1), atol=1e-5)


def test_an_audit_from_scores_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = tmp_path / "victim.yaml"
    path = export_onnx(tmp_path / "victim.onnx")
    victim.write_text(yaml.safe_dump({"model": str(path), "crop": [0.0, 0.0, 1.0, 1.0]}))
    code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--victim", str(victim), "--out",
                           str(tmp_path / "run"))
    assert code == 2 and "the attack's stages need gradients" in err and not (tmp_path / "run").exists()
    code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--victim", str(victim), "--set",
                           "attack={access: scores, stages: []}", "--out", str(tmp_path / "run"))
    assert code == 0, err
    report = json.loads((tmp_path / "run" / "report.json").read_text())["channels"]["label"]
    assert report["stages"] == [] and report["queries"]["backward"] == 0 and report["queries"]["forward"] > 0
    assert report["attack"]["value"] == report["arms"]["mapped"]["identity_match_rate"]["value"]
    code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--set", "attack.access=scores")
    assert code == 2 and "with access 'scores' set stages to []" in err


# ---- what is declared ----


def test_colours_scale_and_grey() -> None:
    x = torch.rand(2, 3, 4, 4)
    bgr = Preprocess(mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0), colours="bgr", scale=255.0)
    mean, std = torch.tensor([1.0, 2.0, 3.0])[:, None, None], torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    assert torch.allclose(bgr(x), (255 * x.flip(1) - mean) / std, atol=1e-4)
    grey = Preprocess(mean=(0.1, 0.0, 0.0), std=(0.2, 1.0, 1.0), colours="grey")
    luma = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert grey(x).shape == (2, 1, 4, 4) and torch.allclose(grey(x), (luma - 0.1) / 0.2, atol=1e-5)
    with pytest.raises(UserError, match="scale must be above 0"):
        Preprocess(scale=0.0)


def test_people_in_the_order_of_the_outputs() -> None:
    data, _ = audit_data(tiny())
    names = list(data.private_train.names)
    turned = ordered(data, names[::-1])
    assert list(turned.private_train.names) == names[::-1]
    first = data.private_heldout.images[data.private_heldout.labels == 0]
    assert torch.equal(turned.private_heldout.images[turned.private_heldout.labels == len(names) - 1], first)
    with pytest.raises(UserError, match=r"no photos of '.*' in .*; '.*' of .* is not among the 4 classes"):
        ordered(data, [*names[1:], "nobody"])
    with pytest.raises(UserError, match="is named twice"):
        ordered(data, [*names, names[0]])


def test_people_called_by_numbers_take_the_names_of_the_classes() -> None:
    data, _ = audit_data(tiny())
    count = data.private_train.n_classes
    for first in (0, 1):
        train, heldout = (replace(part, names=tuple(str(i + first) for i in range(count))[::-1])
                          for part in (data.private_train, data.private_heldout))
        given = [f"class {i}" for i in range(count)]
        called = ordered(replace(data, private_train=train, private_heldout=heldout), given).private_train
        assert called.names == tuple(given)
        assert torch.equal(called.images[called.labels == 0], train.images[train.labels == count - 1])
        assert f"called {first} to {first + count - 1}, which count victim.classes" in called.notes[-1]


def test_the_check_finds_wrong_preprocessing(tmp_path: Path) -> None:
    """A victim that is right about everyone when it is shown blue first, and declared as if it took red first."""
    config = tiny()
    data, _ = audit_data(config)
    known = data.private
    code = f"""
import torch
from torch import nn
PHOTOS = torch.tensor({[[*known.floats(slice(i, i + 1)).mean((2, 3))[0].tolist(), int(known.labels[i])]
                        for i in range(len(known))]})
class Looker(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.head = nn.Linear(n, n)
        nn.init.eye_(self.head.weight); nn.init.zeros_(self.head.bias)
        self.n = n
    def forward(self, x):
        blue_first = (x / 2 + 0.5).mean((2, 3)).flip(1)
        nearest = (blue_first[:, None] - PHOTOS[None, :, :3]).square().sum(2).argmin(1)
        return self.head(nn.functional.one_hot(PHOTOS[nearest, 3].long(), self.n).float())
"""
    (tmp_path / "looker.py").write_text(code)
    model = {"model": f"{tmp_path / 'looker.py'}:Looker", "crop": [0.0, 0.0, 1.0, 1.0]}
    rows = {row.name: row for row in check_audit(tiny(victim={**model, "colours": "bgr"}))}
    assert rows["accuracy"].ok and rows["accuracy"].found.startswith("100.0%: 8 of 8") and "preprocessing" not in rows
    rows = {row.name: row for row in check_audit(tiny(victim=model))}
    assert rows["preprocessing"].ok is False
    assert rows["preprocessing"].found.startswith("with colours bgr it names ")


def test_the_check_counts_queries_before_they_are_spent(service: Service, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "victim.yaml"
    own.write_text(yaml.safe_dump({"model": service.url, "answers": "probabilities", "mean": [0, 0, 0],
                                   "std": [1, 1, 1], "service": {"budget": 50}}))
    said = ("audit", "label", "--preset", "tiny", "--victim", str(own), "--set", "attack={access: scores, stages: []}")
    code, out, _ = run_cli(capsys, *said, "--check")
    assert code == 2 and "the budget is 50" in out and not Path("runs/audit-label-tiny").exists()
    code, _, err = run_cli(capsys, *said, "--out", str(tmp_path / "run"))
    assert code == 3 and "of the budget of 50 images are asked" in err


def test_the_forecast_of_queries_is_what_is_asked(service: Service, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(victim={"model": service.url, "answers": "probabilities"}, attack={"access": "scores", "stages": []})
    data, _ = audit_data(config)
    code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--set", f"victim.model={service.url}",
                           "--set", "victim.answers=probabilities", "--set", "attack={access: scores, stages: []}",
                           "--out", str(tmp_path / "run"))
    assert code == 0, err
    asked = sum(len(body["instances"]) for body in service.asked)
    assert asked == pytest.approx(queries(config, data), rel=0.5) and asked <= queries(config, data) + 200


def test_files_about_a_victim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in (("- a list", "expected settings such as"), ("a: [", "is not valid YAML"),
                          ("modell: x", "unknown key 'victim.modell'")):
        (tmp_path / "victim.yaml").write_text(text)
        code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--victim", str(tmp_path / "victim.yaml"),
                               "--check")
        assert code == 2 and message in err
    code, _, err = run_cli(capsys, "audit", "label", "--victim", str(tmp_path / "none.yaml"), "--check")
    assert code == 2 and "none.yaml cannot be read" in err
    code, out, _ = run_cli(capsys, "audit", "label", "--preset", "tiny", "--check")
    assert code == 0 and "it will be trained here on the private people" in " ".join(out.split())


def test_procedural_faces_are_aligned_and_scattered_ones_are_not() -> None:
    from latentprint.checks import unaligned

    images = make_people(range(40), 2).images
    assert unaligned(images, "faces") is None and unaligned(images[:16], "faces") is None
    rolled = torch.stack([image.roll((int(17 * i) % 64, int(29 * i) % 64), (1, 2)) for i, image in enumerate(images)])
    flag = unaligned(rolled, "faces")
    assert flag is not None and "do not look like aligned faces" in flag.message
    assert unaligned(rolled, "faces + procedural (default)") is not None
    assert unaligned(rolled, "procedural (posed)") is None, "rendered in place, whatever the background does"
    assert unaligned(rolled[:4], "faces") is None, "nothing can be told of four photos"


@pytest.mark.parametrize("population", ["palette", "shifted"])
def test_alignment_of_few_reads_as_of_many(population: str) -> None:
    """Faces of many colours: the mean of seven others is nobody's mean, the mean of many is."""
    from latentprint.data.alignment import ALIGNED, alignment

    images = make_people(range(40), 6, population=population).images
    assert alignment(images) == pytest.approx(0.47, abs=0.03)
    few = [alignment(images[i : i + 24]) for i in range(0, 240, 24)]
    assert sum(few) / len(few) == pytest.approx(alignment(images), abs=0.05) and min(few) >= ALIGNED - 0.01


def test_paths_in_a_file_about_a_victim_start_at_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (folder / "net.py").write_text("")
    (elsewhere / "w.pt").write_text("")
    (folder / "v.yaml").write_text("model: net.py:build\nweights: w.pt\n")
    said = ("audit", "label", "--preset", "tiny", "--victim", str(folder / "v.yaml"), "--dry-run")
    code, out, err = run_cli(capsys, *said)
    victim = yaml.safe_load(out)["victim"]
    assert code == 0 and victim["model"] == f"{folder / 'net.py'}:build" and victim["weights"] == "w.pt"
    assert f"there is no {folder / 'w.pt'}; w.pt in the working folder is taken" in err
    (folder / "w.pt").write_text("")
    code, out, err = run_cli(capsys, *said)
    assert yaml.safe_load(out)["victim"]["weights"] == str(folder / "w.pt") and not err
    for spec, kept in (("timm:resnet10t", "timm:resnet10t"), ("https://a.b/c.onnx", "https://a.b/c.onnx"),
                       ("package.net:build", "package.net:build"), ("/x/m.pt2", "/x/m.pt2"),
                       ("m.pt2", str(folder / "m.pt2"))):
        assert beside({"model": spec}, folder) == ({"model": kept}, [])
    (folder / "v.yaml").write_text("scale: many\n")
    code, _, err = run_cli(capsys, *said)
    assert code == 2 and f"'victim.scale' should be a number, not \"many\" (from --victim {folder / 'v.yaml'})" in err
