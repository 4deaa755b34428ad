"""Products by the faster library are products, with their gradients and theirs again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrolled.models import product
from unrolled.models.product import add_product, affine


def gradients(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    x, weight, bias = (t.clone().requires_grad_() for t in (x, weight, bias))
    y = affine(x, weight, bias)
    z = add_product(y.sin(), x, weight)
    first = torch.autograd.grad(z.square().sum(), (x, weight, bias), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight, bias))
    return [y, z, *first, *second]


@pytest.mark.parametrize("rows", [3, 200])
def test_products_and_gradients_are_those_of_float64(rows: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 120) / 11, torch.randn(130, 120) / 11, torch.randn(130)
    found = gradients(x, weight, bias)
    expected = gradients(x.double(), weight.double(), bias.double())
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one.double() / scale, other / scale, rtol=0.0, atol=1e-5)


@pytest.mark.skipif(product._onednn is None, reason="torch was built without oneDNN")
def test_large_products_on_the_cpu_are_onednns() -> None:
    y = affine(torch.randn(200, 120, requires_grad=True), torch.randn(130, 120))
    assert y.grad_fn is not None
    assert y.grad_fn.name() == "_ProductBackward"
    small = affine(torch.randn(3, 120, requires_grad=True), torch.randn(130, 120))
    assert small.grad_fn is not None
    assert "Product" not in small.grad_fn.name()


def test_autocast_is_left_to_torch() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y = affine(torch.randn(200, 120), torch.randn(130, 120))
    assert y.dtype == torch.bfloat16
