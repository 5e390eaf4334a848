"""Whether the state of optimizers that a checkpoint brought fits what they optimize."""

from collections.abc import Sequence

from torch.optim import Optimizer


def check_optimizers(optimizers: Sequence[Optimizer]) -> None:
    """Raise ValueError if what was restored does not fit.

    A fused step looks at no shape: what it keeps of a weight must lie in memory as the weight does, all but
    the number `step`. Settings are of the types that the optimizer was made with.
    """
    for optimizer in optimizers:
        for weight, state in optimizer.state.items() if optimizer.defaults.get("fused") else ():
            for name, value in state.items():
                found = value.shape, value.stride()
                if found != (weight.shape, weight.stride()) and not (name == "step" and value.numel() == 1):
                    raise ValueError(f"{name} of a weight of {list(weight.shape)} is {list(value.shape)}")
        for group in optimizer.param_groups:
            for name, default in optimizer.defaults.items():
                if isinstance(default, float) and not isinstance(group.get(name), float | int):
                    raise ValueError(f"an optimizer's {name} is {group.get(name)!r}")
