"""One exported graph in ONNX Runtime."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from export.devices import CPU, CUDA
from export.graph.external import check_weights
from export.metadata import About, read_metadata
from export.runtime.answer import Answer, Floats, check_images
from export.runtime.base import AnySession
from export.runtime.bound import BoundRuns, in_parts, on_gpu_thread
from export.runtime.providers import WHAT_TO_DO, Placement, placement, threads_of
from zoo import store
from zoo.errors import CorruptError, NotFoundError, UsageError
from zoo.files import sha256_file

__all__ = ["Session", "look"]

_log = logging.getLogger(__name__)

_QUIET = 4  # of ONNX Runtime's severities: fatal errors alone


class Session(AnySession):
    """An exported graph, loaded and ready to run on the provider that was asked for.

    Args:
        path: of a graph that `ensemble export` wrote.
        device, allow_cpu, threads, spin, index: see `Options`.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: it is no graph, or not one of `ensemble export`; or the files that it would read its weights from
            are elsewhere than beside it, or have other weights.
        UsageError: the device is not there, or cannot run the graph.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        device: str | None = None,
        allow_cpu: bool = False,
        threads: int | None = None,
        spin: bool = True,
        index: int = 0,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise NotFoundError(f"{str(path)!r} is not a file: give a graph that `ensemble export` wrote")
        self.about, self.input_size, self._beside = look(self.path)
        cache = store.home() / "tensorrt"
        if device == "tensorrt":  # ONNX Runtime calls engines after nodes and shapes, which other weights have as well
            cache /= self.sha256
        where = placement(
            device,
            precision=self.about.precision,
            cache=cache,
            image=self.input_size,
            index=index,
            allow_cpu=allow_cpu,
        )
        self._ort = _load(self.path, where, threads=threads_of(threads), spin=spin, allow_cpu=allow_cpu)
        self.provider: str = self._ort.get_providers()[0]
        self.has_members = "member_probs" in [node.name for node in self._ort.get_outputs()]
        self._bound = BoundRuns(self._ort, index) if self.provider == CUDA else None

    @cached_property
    def sha256(self) -> str:
        """Of the file; with external data, of the digests of all its files."""
        parts = [sha256_file(self.path), *(digest or sha256_file(file) for file, digest in self._beside.items())]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()

    def check_whole(self) -> None:
        """Raise `UsageError` if the graph is one stage of a cascade, which has nothing but `log_probs` to give."""
        if self.about.stage is not None:
            raise UsageError(f"{self.path} is stage {self.about.stage} of a cascade: give its folder")

    def run(self, images: npt.NDArray[np.uint8]) -> Floats:
        self.check_whole()
        return self.outputs(images, ["probs"])[0]

    def answer(self, images: npt.NDArray[np.uint8]) -> Answer:
        if not self.has_members:
            return Answer(self.run(images))
        probs, member_probs = self.outputs(images, ["probs", "member_probs"])
        return Answer(probs, member_probs)

    def outputs(self, images: npt.NDArray[np.uint8], names: Sequence[str]) -> list[Floats]:
        """Return outputs of the graph by their names, N rows each; errors as in `run`."""
        pixels = check_images(images, self.input_size)
        if not len(pixels):  # not every provider takes a batch of none
            one = self.outputs(np.zeros((1, *self.input_size, 3), np.uint8), names)
            return [output[:0] for output in one]
        if self.provider == CPU:
            return self._plain(pixels, names)
        if self._bound is not None:
            return in_parts(self._bound.run, pixels, names)
        return in_parts(lambda part, outputs: on_gpu_thread(self._plain, part, outputs), pixels, names)

    def _plain(self, pixels: npt.NDArray[np.uint8], names: Sequence[str]) -> list[Floats]:
        found: list[Floats] = self._ort.run(list(names), {"images": pixels})
        return found

    def warm_up(self, batches: Iterable[int] = (1, 64)) -> None:
        for batch in batches:
            self.run(self.black(batch))


def look(path: Path) -> tuple[About, tuple[int, int], dict[Path, str | None]]:
    """Return what a file says of itself, (H, W) of its images, and the files of its weights, if they are beside it.

    Weights have their digests where these were looked at, as in `check_weights`.

    Raises:
        CorruptError: as in `Session`.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's error is of a package without types
        raise CorruptError(f"{path} is not an ONNX graph") from error
    if not model.HasField("graph"):  # of an empty file, say, which protobuf reads without complaint
        raise CorruptError(f"{path} is not an ONNX graph")
    about = read_metadata({prop.key: prop.value for prop in model.metadata_props}, path)
    weights = check_weights(model, path)
    inputs = {node.name: node.type.tensor_type.shape.dim for node in model.graph.input}
    outputs = {node.name for node in model.graph.output}
    given = outputs & ({"probs"} if about.stage is None else {"probs", "log_probs"})
    if set(inputs) != {"images"} or len(inputs["images"]) != 4 or not given:  # noqa: PLR2004
        raise CorruptError(f"{path} does not take `images` and give `probs`")
    _, height, width, _ = (dim.dim_value for dim in inputs["images"])
    return about, (height, width), weights


def _load(path: Path, where: Placement, *, threads: int, spin: bool, allow_cpu: bool) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime's session; errors as in `Session`."""
    onnxruntime.set_default_logger_severity(_QUIET)  # what it would print of a provider that fails, is in the error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = where.device != "cpu"  # it keeps a plan and room for every size of batch it has met
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    for key, value in where.config.items():
        options.add_session_config_entry(key, value)
    if where.device != "cpu":
        onnxruntime.preload_dlls()  # CUDA's libraries as PyTorch's wheels bring them

    def make() -> onnxruntime.InferenceSession:
        providers = list(where.providers)
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=int(allow_cpu))

    try:
        session = make() if where.device == "cpu" else on_gpu_thread(make)
    except Exception as error:  # its errors share no other base
        reason = str(error).partition("\n")[0]
        if where.device == "cpu":
            raise CorruptError(f"{path} cannot be run by ONNX Runtime: {reason}") from error
        raise UsageError(f"{path} cannot run on {where.device}: {reason}: {WHAT_TO_DO}") from error
    if session.get_providers()[0] != where.provider:
        instead = f"{session.get_providers()[0]} instead of {where.device}"
        if not allow_cpu:
            raise UsageError(f"{path} would run on {instead}: {WHAT_TO_DO}")
        _log.warning("%s runs on %s", path, instead)
    return session
