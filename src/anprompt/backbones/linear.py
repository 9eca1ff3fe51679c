"""Frozen linear layers through oneDNN, where that is the faster of torch's two libraries; QuickGELU in one go.

On x86 torch multiplies fp32 matrices with MKL, which on processors not of its maker's uses half the
width of the vector units. oneDNN, which torch ships too, uses all of it: twice the pace on AMD Zen 4
and 5, equal to rounding; `machine.onednn_products` chooses. Frozen weights need no gradient, so the backward pass is one product as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anprompt.utils.machine import onednn_products


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """`x W^T + b` with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # a constant: nothing to guard against changes
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _product(grads[0].contiguous(), ctx.weight.t(), None), None, None


class FrozenLinear(nn.Linear):
    """`nn.Linear` whose weights are constants; same names, same result to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        plain = (
            self.weight.requires_grad
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or input.numel() == 0
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        )
        if plain:
            return super().forward(input)
        if torch.is_grad_enabled() and input.requires_grad:
            return _Product.apply(input, self.weight, self.bias)  # type: ignore
        return _product(input, self.weight, self.bias)


class _QuickGelu(torch.autograd.Function):
    """`x sigmoid(1.702 x)` as `silu(1.702 x) / 1.702`, whose derivative is that of silu at 1.702 x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = x * 1.702
        ctx.save_for_backward(scaled)
        return nn.functional.silu(scaled).div_(1.702)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(grads[0], ctx.saved_tensors[0])


class QuickGelu(nn.Module):
    """CLIP's activation with one saved tensor instead of three and a third of the passes over memory."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return input * torch.sigmoid(1.702 * input)
        if torch.is_grad_enabled() and input.requires_grad:
            return _QuickGelu.apply(input)  # type: ignore
        return nn.functional.silu(input * 1.702, inplace=True).div_(1.702)


def quicken(model: nn.Module) -> None:
    """Make a frozen model's activations `QuickGelu` and, where that pays off, its linear layers `FrozenLinear`."""
    fast = onednn_products()
    for module in model.modules():
        if fast and type(module) is nn.Linear:
            module.__class__ = FrozenLinear
        elif type(module).__name__ == "QuickGELUActivation":
            module.stock = type(module)  # type: ignore[assignment]
            module.__class__ = QuickGelu


def restore(model: nn.Module) -> None:
    """Undo `quicken`: the library's own products, which parity and speed are measured against."""
    for module in model.modules():
        if type(module) is FrozenLinear:
            module.__class__ = nn.Linear  # type: ignore[assignment]
        elif type(module) is QuickGelu:
            module.__class__ = module.__dict__.pop("stock")
