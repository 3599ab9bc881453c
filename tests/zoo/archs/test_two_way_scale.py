"""Two-way scaling against its definition."""

import torch

from zoo.archs.two_way_scale import two_way_scale


def test_forward_has_one_factor_and_the_gradient_another() -> None:
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    ahead, back = torch.tensor([0.5, -2.0, 0.0]), torch.tensor([0.25, 0.0, 3.0])
    out = two_way_scale(x, ahead.reshape(3, 1, 1, 1), back.reshape(3, 1, 1, 1))
    (grad,) = torch.autograd.grad(out, x, upstream)
    for sample in range(3):
        torch.testing.assert_close(out[sample], ahead[sample].item() * x[sample])
        torch.testing.assert_close(grad[sample], back[sample].item() * upstream[sample])


def test_with_equal_factors_it_is_a_product() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    factor = torch.rand(3, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: two_way_scale(x, factor, factor), (x,))


def test_factors_get_no_gradient_and_the_precision_is_that_of_x() -> None:
    x = torch.randn(2, 3, dtype=torch.bfloat16, requires_grad=True)
    factor = torch.rand(2, 1, requires_grad=True)
    out = two_way_scale(x, factor, factor)
    out.float().sum().backward()  # type: ignore[no-untyped-call]
    assert out.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert factor.grad is None
