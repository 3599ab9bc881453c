"""Frozen networks say what the plain ones say."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn, cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tta import autocast
from tta.freeze import FrozenNet, Setting, best_precision
from tta.predict import Precision
from zoo import store
from zoo.archs import create
from zoo.data import load_split
from zoo.errors import UsageError
from zoo.images import normalize

CPU = torch.device("cpu")
IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net = create("wrn16-2", 10).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(32, 3, 32, 32))
    return net.eval()


@pytest.mark.parametrize("channels_last", [True, False])
def test_fp32_is_the_same(net: nn.Module, *, channels_last: bool) -> None:
    frozen = FrozenNet(net, Setting(CPU, channels_last=channels_last))
    with torch.inference_mode():
        assert_close(frozen(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)
        assert_close(frozen(IMAGES.double()), net(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 70])
def test_any_number_of_images(net: nn.Module, count: int) -> None:
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert_close(FrozenNet(net, Setting(CPU))(images), net(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_gives_fp32(net: nn.Module, precision: Precision) -> None:
    with torch.inference_mode():
        plain, half = net(IMAGES), FrozenNet(net, Setting(CPU, precision))(IMAGES)
    assert half.dtype == torch.float32
    off = (half - plain).norm() / plain.norm()
    assert 0 < off < 0.02  # 2^-8 a rounding; not fp32 in disguise


def test_first_and_last_layer_and_norms_stay_wide(net: nn.Module) -> None:
    frozen = FrozenNet(net, Setting(CPU, "bf16"))
    convs = [m for m in frozen.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.weight.dtype for conv in convs] == [torch.float32] + [torch.bfloat16] * (len(convs) - 1)
    rest = [m for m in frozen.modules() if isinstance(m, nn.Linear | nn.BatchNorm2d)]
    assert len(rest) > 1
    assert {m.weight.dtype for m in rest} == {torch.float32}


def test_the_wide_first_layer_pays() -> None:
    """On real images and a real network, whose whitening layer multiplies what its input is rounded by."""
    entry = store.find("fastnet-seed1")
    net = entry.load().eval()
    images = normalize(torch.from_numpy(load_split("cifar10", "test").images[:100]), entry.card.mean, entry.card.std)
    with torch.inference_mode():
        exact = net(images)
        kept = FrozenNet(net, Setting(CPU, "bf16"))(images)
        with autocast(CPU, "bf16"):
            narrow = net(images).float()
    assert (kept - exact).norm() < 0.6 * (narrow - exact).norm()


def test_the_network_given_is_not_changed(net: nn.Module) -> None:
    before = {name: values.clone() for name, values in net.state_dict().items()}
    for setting in (Setting(CPU, "bf16"), Setting(CPU, "fp16"), Setting(CPU)):
        FrozenNet(net, setting)
    after = net.state_dict()
    assert all(
        after[name].dtype == values.dtype and torch.equal(after[name], values) for name, values in before.items()
    )
    assert not net.training


def test_nothing_to_learn_is_left(net: nn.Module) -> None:
    assert not any(p.requires_grad for p in FrozenNet(net, Setting(CPU, "bf16")).parameters())


def test_a_compiler_that_fails_costs_a_warning(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Tensor) -> NoReturn:
        raise RuntimeError("no C++ compiler\nlong story")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    frozen = FrozenNet(net, Setting(CPU, compile=True))
    assert frozen.compiled
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        first, second = frozen(IMAGES), frozen(IMAGES)
        assert_close(first, net(IMAGES), rtol=1e-4, atol=1e-5)
    assert torch.equal(first, second)
    assert [r.getMessage() for r in caplog.records] == [
        "torch.compile failed (RuntimeError: no C++ compiler): running uncompiled"
    ]
    assert not frozen.compiled


def test_images_that_no_network_takes_do_not_count_against_the_compiler(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **_: lambda images: call(images) + 1)
    frozen = FrozenNet(net, Setting(CPU, compile=True))
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="channels"):
            frozen(torch.zeros(2, 5, 32, 32))
        assert_close(frozen(IMAGES), net(IMAGES) + 1, rtol=1e-4, atol=1e-5)
    assert frozen.compiled
    assert not caplog.records


def test_only_batches_of_many_sizes_go_without_cuda_graphs(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def compiles(call: Callable[[Tensor], Tensor], **options: object) -> Callable[[Tensor], Tensor]:
        asked.append(options)
        return call

    monkeypatch.setattr(torch, "compile", compiles)
    for dynamic in (False, True):
        frozen = FrozenNet(net, Setting(CPU, compile=True, dynamic=dynamic))
        for device in ("cpu", "cuda"):
            frozen.setting = replace(frozen.setting, device=torch.device(device))
            frozen.net._compiled_call_impl = None
            with torch.inference_mode():
                frozen._run(IMAGES)
    assert asked == [
        {"mode": "default", "dynamic": None},
        {"mode": "reduce-overhead", "dynamic": None},
        {"mode": "default", "dynamic": True},
        {"mode": "default", "dynamic": True},
    ]


def test_a_copy_runs_compiled_as_well(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **_: lambda images: call(images) + 1)
    frozen = FrozenNet(net, Setting(CPU, compile=True))
    with torch.inference_mode():
        before = frozen(IMAGES)
        copied = copy.deepcopy(frozen)
        assert torch.equal(copied(IMAGES), before)
        head = cast("nn.Linear", copied.net.get_submodule("head"))
        head.bias.add_(1)
        assert_close(copied(IMAGES), before + 1)
        assert torch.equal(frozen(IMAGES), before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_weight_is_held_twice(net: nn.Module, monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    frozen, plain = (FrozenNet(net, Setting(CPU, precision, compile=c)) for c in (True, False))
    with torch.inference_mode():
        frozen(IMAGES)
    assert list(frozen.state_dict()) == list(plain.state_dict())
    assert len({id(p) for p in frozen.parameters()}) == len(list(frozen.state_dict())) - len(list(frozen.buffers()))


def test_the_compiler_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what it makes of a graph: that needs a C++ compiler."""
    from torch._dynamo.testing import CompileCounter

    real, made = torch.compile, list[object]()

    def eager(call: Callable[[Tensor], Tensor], *, mode: str, dynamic: bool | None) -> Callable[[Tensor], Tensor]:
        made.append(mode)
        return cast("Callable[[Tensor], Tensor]", real(call, backend=count, dynamic=dynamic))

    count = CompileCounter()
    monkeypatch.setattr(torch, "compile", eager)
    net = create("cnn6", 10, widths=(4, 4)).eval()
    frozen = FrozenNet(net, Setting(CPU, compile=True, dynamic=True))
    with torch.inference_mode():
        for size in (5, 3, 7, 2):
            assert_close(frozen(IMAGES[:size]), net(IMAGES[:size]), rtol=1e-4, atol=1e-5)
    assert (made, count.frame_count) == (["default"], 1)


def test_the_compiled_network_is_the_one_that_runs(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda net, **_: lambda images: net(images) + 1)
    plain, compiled = (FrozenNet(net, Setting(CPU, compile=c)) for c in (False, True))
    with torch.inference_mode():
        assert_close(compiled(IMAGES), plain(IMAGES) + 1)


def test_what_is_frozen_is_not_frozen_again(net: nn.Module) -> None:
    frozen = FrozenNet(net, Setting(CPU))
    for again in (frozen, nn.Sequential(frozen)):
        with pytest.raises(UsageError, match="frozen already: freeze the one that it was made of"):
            FrozenNet(again, Setting(CPU))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("how", ["half", "double", "float", "bfloat16", "meta"])
def test_it_stays_in_its_precision_and_on_its_device(net: nn.Module, how: str, precision: Precision) -> None:
    frozen = nn.Sequential(FrozenNet(net, Setting(CPU, precision)))
    kinds = {name: values.dtype for name, values in frozen.state_dict().items()}
    if how == "float" and precision == "fp32":
        frozen.float()  # it is already
    else:
        with pytest.raises(UsageError, match=f"a frozen network stays on cpu in {precision}: freeze"):
            frozen.to(how) if how == "meta" else getattr(frozen, how)()
    assert {name: values.dtype for name, values in frozen.state_dict().items()} == kinds
    frozen.to("cpu").requires_grad_(False).share_memory()


def test_it_does_not_go_into_training(net: nn.Module) -> None:
    frozen = FrozenNet(net, Setting(CPU))
    nn.Sequential(frozen).train()
    assert not any(module.training for module in frozen.modules())


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        FrozenNet(create("cnn6", 10), Setting(CPU))


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UsageError, match="'int4'; there are fp32, fp16, bf16"):
        Setting(CPU, "int4")  # type: ignore[arg-type]


def test_bf16_where_the_cpu_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda able=able: able)
        assert best_precision(CPU) == expected


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16"), (False, "fp32")])
def test_gpus_without_bf16_get_fp32(monkeypatch: pytest.MonkeyPatch, expected: str, *, able: bool) -> None:
    """In fp16, activations can overflow."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able and not including_emulation)
    assert best_precision(torch.device("cuda")) == expected


@pytest.mark.gpu
def test_cuda_graphs_say_the_same(net: nn.Module) -> None:
    device = torch.device("cuda")
    frozen = FrozenNet(net, Setting(device, "fp32", compile=True))
    with torch.inference_mode():
        answers = [frozen(IMAGES.to(device)).cpu() for _ in range(4)]
        for answer in answers:
            assert_close(answer, net(IMAGES), rtol=1e-2, atol=1e-2)
