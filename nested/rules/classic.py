"""SGD, RMSprop, Adam and AdamW as rules, with settings that meta-training can learn.

State: that of ``torch.optim``, for each weight.  It sees: gradients.  Clock: every inner step.
Letters: L tensors of weights.
Source: the classes of the same names in ``torch.optim``; a learned step size for each tensor after
Li et al. 2017 (Meta-SGD, arXiv 1707.09835) and Antoniou et al. 2019 (MAML++, arXiv 1810.09502).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nested.levels.forward import Params, State
from nested.levels.rule import Step, UpdateRule
from nested.rules.features import sanitise
from nested.rules.registry import register

MAX_DECAY = 1 - 1e-5  # of a running average
AVERAGES = ("alpha", "beta1", "beta2")
RANGES = {
    "eps": (1e-12, 1e6),
    "momentum": (0.0, 1.0),
    **{name: (0.0, MAX_DECAY) for name in AVERAGES},
}
Buffers = dict[str, Tensor]  # for one tensor of weights (...), all shaped like it


class ClassicRule(UpdateRule):
    """Base of rules that update each tensor of weights by a formula with a few settings.

    Each setting is a learnable parameter: one number () for all tensors, or (L,) with one number
    for each of ``names``. Names are those of ``dict(model.named_parameters())``. ``eps`` is kept as
    ``log_eps``, as its order of magnitude matters. If meta-training moves a decay out of [0, 1),
    the rule uses the end of the range, and the parameter still gets its gradient.

    A subclass names its ``buffers`` and writes ``move``. Signals: the settings, () or (L,). State:
    the buffers, {name: (...)} each, and "step", (). Raises ``ValueError`` for a setting out of
    range, and for weights that ``names`` lacks.
    """

    needs_loss = False
    buffers: tuple[str, ...] = ()

    def __init__(self, names: Iterable[str] | None, **settings: float) -> None:
        super().__init__()
        self.names = None if names is None else tuple(names)
        self.settings = tuple(settings)
        shape = () if self.names is None else (len(self.names),)
        for setting, value in settings.items():
            low, high = RANGES.get(setting, (0.0, 1e6))
            if not low <= value <= high:
                raise ValueError(f"{setting} is from {low:g} to {high:g}, but got {value!r}")
            name, value = ("log_eps", math.log(value)) if setting == "eps" else (setting, value)
            self.register_parameter(name, nn.Parameter(torch.full(shape, float(value))))

    def move(
        self, p: Tensor, grad: Tensor, buffers: Buffers, step: Tensor, **settings: Tensor
    ) -> tuple[Tensor, Buffers]:
        """Return the next weight (...), by its gradient ``grad`` (...), and its next buffers.
        ``step``, (), counts from 1; each of ``settings`` is (). Raises ``NotImplementedError`` if a
        subclass lacks it."""
        raise NotImplementedError

    def init(self, params: Params) -> State:
        unknown = [] if self.names is None else sorted(params.keys() - set(self.names))
        if unknown:
            raise ValueError(f"this rule has settings for {self.names}, but not for {unknown}")
        first = next(iter(params.values()))
        state = {
            buffer: {name: torch.zeros_like(p) for name, p in params.items()}
            for buffer in self.buffers
        }
        count_dtype = torch.promote_types(first.dtype, torch.float32)  # half counts only to 2,048
        return {**state, "step": first.new_zeros((), dtype=count_dtype)}

    def forward(self, params: Params, grads: Params, state: State, loss: Tensor) -> Step:
        step, new_params = state["step"] + 1, {}
        new_buffers: dict[str, Params] = {buffer: {} for buffer in self.buffers}
        for name, p in params.items():
            buffers = {buffer: state[buffer][name] for buffer in self.buffers}
            settings = self._settings_of(name)
            new_p, buffers = self.move(p, sanitise(grads[name]), buffers, step, **settings)
            new_params[name] = new_p.to(p.dtype)
            for buffer, value in buffers.items():
                new_buffers[buffer][name] = value.to(p.dtype)
        signals = {setting: self._value(setting) for setting in self.settings}
        return Step(new_params, {**new_buffers, "step": step}, signals)

    @property
    def eps(self) -> Tensor:
        """The ``eps`` of RMSprop and Adam, () or (L,)."""
        return self.log_eps.exp()

    @property
    def betas(self) -> Tensor:
        """The ``betas`` of Adam, (2,) or (2, L)."""
        return torch.stack([self.beta1, self.beta2])

    def _settings_of(self, name: str) -> dict[str, Tensor]:
        values = {setting: self._value(setting) for setting in self.settings}
        if self.names is None:
            return values
        return {setting: value[self.names.index(name)] for setting, value in values.items()}

    def _value(self, setting: str) -> Tensor:
        value = getattr(self, setting)
        if setting in AVERAGES:  # clamped, but with the gradient of the parameter itself
            return value + (value.clamp(*RANGES[setting]) - value).detach()
        return value + 0


@register
class SGDRule(ClassicRule):
    """Learnable ``torch.optim.SGD``: ``v <- momentum v + g``, ``w <- w - lr v``.

    ``weight_decay w`` is added to the gradient g.
    """

    buffers = ("momentum_buffer",)

    def __init__(
        self,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        names: Iterable[str] | None = None,
    ) -> None:
        super().__init__(names, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def move(
        self, p: Tensor, grad: Tensor, buffers: Buffers, step: Tensor, **settings: Tensor
    ) -> tuple[Tensor, Buffers]:
        grad = grad + settings["weight_decay"] * p
        velocity = settings["momentum"] * buffers["momentum_buffer"] + grad
        return p - settings["lr"] * velocity, {"momentum_buffer": velocity}


@register
class RMSpropRule(ClassicRule):
    """Learnable ``torch.optim.RMSprop``: ``V <- alpha V + (1 - alpha) g^2``,
    ``v <- momentum v + g / (sqrt V + eps)``, ``w <- w - lr v``.

    ``weight_decay w`` is added to the gradient g.
    """

    buffers = ("square_avg", "momentum_buffer")

    def __init__(
        self,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        *,
        names: Iterable[str] | None = None,
    ) -> None:
        settings = {"lr": lr, "alpha": alpha, "eps": eps}
        super().__init__(names, **settings, weight_decay=weight_decay, momentum=momentum)

    def move(
        self, p: Tensor, grad: Tensor, buffers: Buffers, step: Tensor, **settings: Tensor
    ) -> tuple[Tensor, Buffers]:
        grad, alpha = grad + settings["weight_decay"] * p, settings["alpha"]
        square = alpha * buffers["square_avg"] + (1 - alpha) * grad.square()
        scaled = grad / (smooth_root(square) + settings["eps"])
        velocity = settings["momentum"] * buffers["momentum_buffer"] + scaled
        buffers = {"square_avg": square, "momentum_buffer": velocity}
        return p - settings["lr"] * velocity, buffers


@register
class AdamRule(ClassicRule):
    """Learnable ``torch.optim.Adam``: ``m <- b1 m + (1 - b1) g``, ``V <- b2 V + (1 - b2) g^2``,
    ``w <- w - lr m' / (sqrt V' + eps)``, with m' and V' corrected for their start at zero.

    ``weight_decay w`` is added to the gradient g.
    """

    buffers = ("exp_avg", "exp_avg_sq")
    is_decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        names: Iterable[str] | None = None,
    ) -> None:
        beta1, beta2 = betas
        settings = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps}
        super().__init__(names, **settings, weight_decay=weight_decay)

    def move(
        self, p: Tensor, grad: Tensor, buffers: Buffers, step: Tensor, **settings: Tensor
    ) -> tuple[Tensor, Buffers]:
        lr, beta1, beta2 = (settings[name] for name in ("lr", "beta1", "beta2"))
        decay = settings["weight_decay"] * p
        if self.is_decoupled:
            p = p - lr * decay
        else:
            grad = grad + decay
        average = beta1 * buffers["exp_avg"] + (1 - beta1) * grad
        square = beta2 * buffers["exp_avg_sq"] + (1 - beta2) * grad.square()
        root = smooth_root(square) / (1 - beta2**step).sqrt()
        new_p = p - lr / (1 - beta1**step) * average / (root + settings["eps"])
        return new_p, {"exp_avg": average, "exp_avg_sq": square}


@register
class AdamWRule(AdamRule):
    """Learnable ``torch.optim.AdamW``: ``w <- w - lr weight_decay w``, and then the step of Adam.

    So the decay does not enter m and V.
    """

    is_decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        names: Iterable[str] | None = None,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, names=names)


def smooth_root(square: Tensor) -> Tensor:
    """Compute the root of ``square`` (...), with the derivative 0 at 0 instead of infinity.

    So a weight that got no gradient yet does not contribute to a hypergradient.
    """
    is_positive = square > 0
    return torch.where(is_positive, torch.where(is_positive, square, 1.0).sqrt(), 0.0)
