"""For ONNX: one graph with its weights inside, `images` to `features`."""

import contextlib
import importlib
import io
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.checkpoints.export import to_torch_export
from carp_eval.checkpoints.export.form import Settings, Written, told_of
from carp_eval.errors import CheckpointError, UsageError
from carp_eval.models.model import Model

# The oldest that the exporter writes itself, and so what most runtimes read.
OPSET = 18
INPUT, OUTPUT = "images", "features"
# A message of protocol buffers holds no more; larger weights would lie in files beside it.
LARGEST = 2**31 - 2**20


def write(model: Model, settings: Settings, path: Path) -> Written:
    """Bring a model to a graph that onnx's checker accepts.

    Raises:
        UsageError: If its weights are too large for one file.
        RuntimeError: If torch cannot trace it.
    """
    import onnx

    size = sum(value.numel() for value in model.network.state_dict().values()) * settings.torch_dtype.itemsize
    if size > LARGEST:
        raise UsageError(
            f"the weights of {model.name} are {size / 1e9:.1f} GB as {settings.dtype}, and an ONNX file holds 2 GB: "
            "say --dtype float16, or --to torch-export"
        )
    opset, newest = settings.opset or OPSET, onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise UsageError(f"torch writes opsets {OPSET} to {newest}, not {opset}")
    traced = to_torch_export.to_trace(model, settings)
    with _quiet():
        exported: Any = torch.onnx.export(
            traced.network,
            (traced.example,),
            dynamic_shapes=traced.dynamic_shapes,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            verbose=False,
        )
    graph = exported.model_proto
    came = next(entry.version for entry in graph.opset_import if not entry.domain)
    if came != opset:
        raise UsageError(f"torch writes {model.name} in opset {came}, not in {opset}: say --opset {came}")
    colours = "RGB" if model.input.channels == 3 else "grey"
    onnx.helper.set_model_props(
        graph, told_of(model) | {"input": f"(image in [0, 1] - mean) / std, {colours}"}
    )
    onnx.checker.check_model(graph, full_check=True)
    return Written(
        graph.SerializeToString(),
        partial(_features, dtype=settings.torch_dtype),
        {
            "opset": came,
            "input": f"{INPUT}: {settings.dtype}, {_shape(graph.graph.input[0])}",
            "output": f"{OUTPUT}: {settings.dtype}, {_shape(graph.graph.output[0])}",
        },
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        f'features = session.run(None, {{"{INPUT}": images}})[0]',
    )


def _shape(value: Any) -> str:
    dims = value.type.tensor_type.shape.dim
    return " x ".join(dim.dim_param or str(dim.dim_value) for dim in dims)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep what the exporter prints of its own progress from standard output, which may be read by machines."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _features(
    path: Path, images: Float[Tensor, "image channel height width"], *, dtype: torch.dtype
) -> Float[Tensor, "image feature"]:
    import onnxruntime

    refusals: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (features,) = session.run([OUTPUT], {INPUT: images.to(dtype).numpy()})
    except (
        refusals.Fail,
        refusals.InvalidGraph,
        refusals.NotImplemented,
        refusals.RuntimeException,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path.name} was not written: onnxruntime {onnxruntime.__version__} does not run it; an older --opset may "
            f"do. It says: {reason:.300}"
        ) from error
    return torch.from_numpy(features).float()
