"""The devices that graphs run on, ONNX Runtime's providers for them, and the options that these get wherever they run.

None of it imports ONNX Runtime: whoever looks at a machine, or writes Triton's configuration, need not have it.
"""

from zoo.errors import UsageError

__all__ = ["CPU", "CUDA", "CUDA_OPTIONS", "DEVICES", "LARGEST_BATCH", "TENSORRT", "check_device", "tensorrt_options"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
DEVICES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
"""What people call a device -> the provider that runs on it."""

LARGEST_BATCH = 4096
"""Images in the largest batch that graphs are traced, and TensorRT's engines and CUDA graphs made for; larger ones run
in parts."""

CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "cudnn_conv_use_max_workspace": "1",
    "prefer_nhwc": "1",  # the layout of tensor cores
    "use_tf32": "0",  # fp32 is fp32, as the gate measured it
}
"""Of the CUDA provider: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html"""


def check_device(device: str, *, what: str = "unknown device") -> None:
    """Raise `UsageError` unless `device` is a key of `DEVICES`.

    Args:
        device: what somebody asked for.
        what: the message begins with it.
    """
    if device not in DEVICES:
        raise UsageError(f"{what} {device!r}; there are {', '.join(DEVICES)}")


def tensorrt_options(image: tuple[int, int], cache: str, *, usual: int, largest: int) -> dict[str, str]:
    """Return options of the TensorRT provider for engines that are kept, and take any batch.

    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html

    None of them keeps an engine in fp32 from computing in TF32, as `use_tf32` of `CUDA_OPTIONS` does
    (github.com/microsoft/onnxruntime/issues/26029): that takes NVIDIA_TF32_OVERRIDE=0 in the environment of the
    process, which is for whoever starts it to set, as it is for all else that uses the GPU there, too.

    Args:
        image: (H, W) of the graph's images.
        cache: folder for engines and timings, which take minutes to make.
        usual: images in the batch that engines are fastest with.
        largest: images in the largest batch.
    """
    height, width = image
    sizes = {"min": 1, "opt": usual, "max": largest}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
        # Without profiles, each new size of batch would build an engine.
        **{f"trt_profile_{key}_shapes": f"images:{batch}x{height}x{width}x3" for key, batch in sizes.items()},
    }
