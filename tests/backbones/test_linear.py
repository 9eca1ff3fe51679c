"""Frozen linear layers: the other library's product equals torch's own, output and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anprompt.backbones import linear
from anprompt.utils import machine

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
)


def frozen(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    layer.__class__ = linear.FrozenLinear
    return layer


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (3, 24), (2, 5, 24), (0, 24)])
def test_output_and_gradient_equal_the_stock_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer = frozen(bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, stock = layer(ours), nn.functional.linear(theirs, layer.weight, layer.bias)
    assert out.shape == stock.shape
    torch.testing.assert_close(out, stock, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, max(out.numel(), 1))[: out.numel()].view_as(out)
    (out * weights).sum().backward()
    (stock * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_a_gradient_that_is_not_contiguous() -> None:
    layer = frozen()
    x = torch.randn(6, 24, requires_grad=True)
    layer(x).t().sum().backward()  # an expanded gradient
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(6, -1))


def test_other_precisions_autocast_and_trained_weights_take_the_stock_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("not for this one")

    monkeypatch.setattr(linear, "_product", refuse)
    layer, x = frozen(), torch.randn(3, 24)
    with pytest.raises(AssertionError):
        layer(x)
    assert layer.double()(x.double()).dtype == torch.float64
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@needs_onednn
def test_quicken_and_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Bilinear(4, 4, 4))
    names = list(model.state_dict())
    monkeypatch.setenv(machine.ONEDNN, "off")
    linear.quicken(model)
    assert type(model[0]) is nn.Linear
    monkeypatch.setenv(machine.ONEDNN, "on")
    linear.quicken(model)
    assert type(model[0]) is linear.FrozenLinear and list(model.state_dict()) == names
    linear.restore(model)
    assert type(model[0]) is nn.Linear


def test_quick_gelu_equals_the_stock_activation() -> None:
    from transformers.activations import QuickGELUActivation

    x = torch.linspace(-12, 12, 481, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    model = nn.Sequential(QuickGELUActivation())
    expected = model(theirs)
    linear.quicken(model)
    assert type(model[0]) is linear.QuickGelu
    torch.testing.assert_close(model(ours), expected)
    torch.testing.assert_close(model(x), expected.detach())
    weights = torch.linspace(-1, 1, len(x), dtype=torch.float64)
    for result in (model(ours), expected):
        (result * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    linear.restore(model)
    assert type(model[0]) is QuickGELUActivation
