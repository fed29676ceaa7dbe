"""Networks that run elsewhere: an ONNX file, a service behind HTTP, a function. Answers, but no gradients."""

from __future__ import annotations

import base64
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from latentprint.errors import RunFailed, UserError, useful_line

#: How images travel to a service and answers back; see `HttpNetwork`.
Protocol = Literal["instances", "png"]
#: Images a request.
REQUEST = 32
#: Seconds before the first repetition of a failed request; each further one waits twice as long.
WAIT = 0.5


class OutsideNetwork(nn.Module, ABC):
    """Images ``(B, C, H, W)``, preprocessed, to answers ``(B, n)``, or several by name, on the device of the images."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        answer = self.answer(x.detach().float().cpu())
        if isinstance(answer, dict):
            return {name: value.to(x.device) for name, value in answer.items()}
        return answer.to(x.device)

    @abstractmethod
    def answer(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """The same on the CPU, of a float32 tensor."""


class FunctionNetwork(OutsideNetwork):
    """A function of the user's own from images ``(B, C, H, W)``, float32 on the CPU, to answers: tensors or arrays."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def answer(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """See the class."""
        found = self.function(x)
        if isinstance(found, tuple | list) and any(isinstance(each, Tensor) for each in found):
            found = dict(enumerate(found))
        if isinstance(found, Mapping):
            return {str(name): torch.as_tensor(value) for name, value in found.items()}
        return torch.as_tensor(found)


#: NumPy's types by the names that ONNX Runtime gives them.
_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


class OnnxNetwork(OutsideNetwork):
    """An ONNX file's output, or its outputs by name where there are several.

    Attributes:
        declared: the shape of its input, with names for lengths that are free.

    Raises:
        UserError: no such file, onnxruntime is not installed, it cannot read the file, or the file has not one input.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise UserError(f"no file {path}")
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise UserError("an .onnx file needs onnxruntime; pip install 'latentprint[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised as well
        try:
            self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own exceptions have no public base
            raise UserError(f"{path} is not an ONNX network: {useful_line(error)}") from None
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise UserError(f"{path} takes {len(inputs)} inputs ({', '.join(each.name for each in inputs)}), expected "
                            "one, the images")
        self.input, self.dtype, self.declared = inputs[0].name, inputs[0].type, list(inputs[0].shape)
        if self.dtype not in _TYPES:
            raise UserError(f"{path} takes {self.dtype}, expected one of {', '.join(_TYPES)}")
        self.outputs = [each.name for each in self.session.get_outputs()]

    def answer(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """See the class.

        Raises:
            UserError: it takes whole numbers, and these are none.
        """
        found = self.session.run(None, {self.input: np.ascontiguousarray(self._typed(x))})
        tensors = {name: _tensor(value) for name, value in zip(self.outputs, found, strict=True)
                   if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"}
        return next(iter(tensors.values())) if len(found) == len(tensors) == 1 else tensors

    def _typed(self, x: Tensor) -> np.ndarray:
        kind = np.dtype(_TYPES[self.dtype])
        if kind.kind == "f":
            return x.numpy().astype(kind)
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 255 or 0 < high <= 1:
            raise UserError(f"the network takes whole numbers ({self.dtype}) and its settings give {low:.3g} to "
                            f"{high:.3g}: for bytes set scale: 255, mean: [0, 0, 0], std: [1, 1, 1]")
        return x.round().numpy().astype(kind)


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(value, np.float32 if value.dtype.kind == "f" else np.int64))


class HttpNetwork(OutsideNetwork):
    """A service that answers POST requests in JSON.

    ``instances``: ``{"instances": [[[[...]]]]}``, the preprocessed images as nested numbers ``(B, C, H, W)``, to
    ``{"predictions": [[...], ...]}`` (KServe's and TensorFlow Serving's first protocol). ``png``: base64 of PNG files,
    ``{"images": [...]}``, to ``{"scores": [[...], ...]}``; give it preprocessing that leaves [0, 1] as it is.

    Args:
        url: http:// or https://.
        timeout: seconds to wait for an answer. retries: of a request that timed out or failed on the service's side.
        budget: images that may be asked about in all, repetitions included; None: any number.

    Attributes:
        asked: images so far.
    """

    def __init__(self, url: str, protocol: Protocol = "instances", timeout: float = 30.0, retries: int = 3,
                 budget: int | None = None) -> None:
        super().__init__()
        self.url, self.protocol, self.timeout, self.retries, self.budget = url, protocol, timeout, retries, budget
        self.asked = 0
        self.session: Any = None

    def answer(self, x: Tensor) -> Tensor:
        """See the class.

        Raises:
            RunFailed: the budget is spent, no answer came after all retries, or one that cannot be read.
        """
        return torch.cat([self._asked(part) for part in x.split(REQUEST)])

    def _asked(self, x: Tensor) -> Tensor:
        if self.protocol == "png":
            body, key = {"images": [_png(image) for image in x]}, "scores"
        else:
            body, key = {"instances": x.tolist()}, "predictions"
        said = self._posted(body, len(x))
        try:
            rows = torch.tensor(said[key], dtype=torch.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise RunFailed(f"{self.url} answered without a list of numbers an image under '{key}' ({error})") from None
        if rows.ndim != 2 or len(rows) != len(x):
            raise RunFailed(f"{self.url} answered {len(x)} images with {tuple(rows.shape)}, expected a row for each")
        return rows

    def _posted(self, body: dict[str, Any], n: int) -> Any:
        import requests

        self.session = self.session or requests.Session()
        trouble = ""
        for attempt in range(self.retries + 1):
            if self.budget is not None and self.asked + n > self.budget:
                raise RunFailed(f"{self.url}: {self.asked} of the budget of {self.budget} images are asked, and {n} "
                                "more are needed; what was finished before is kept")
            self.asked += n
            try:
                answer = self.session.post(self.url, json=body, timeout=self.timeout)
            except (requests.Timeout, requests.ConnectionError) as error:
                late = isinstance(error, requests.Timeout)
                trouble = f"no answer within {self.timeout:g} s" if late else "no connection"
            else:
                if answer.ok:
                    return _json(answer, self.url)
                trouble = f"status {answer.status_code} {answer.reason}"
                if answer.status_code < 500:
                    break  # the request itself is refused: once more changes nothing
            if attempt < self.retries:
                time.sleep(WAIT * 2**attempt)
        raise RunFailed(f"{self.url}: {trouble} (asked {attempt + 1} times)")


def _json(answer: Any, url: str) -> Any:
    try:
        return answer.json()
    except ValueError:
        raise RunFailed(f"{url} answered something that is not JSON: {answer.text[:60]!r}") from None


def _png(image: Tensor) -> str:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
