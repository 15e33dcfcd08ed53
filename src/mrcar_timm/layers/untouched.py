"""Whether a module may be computed in another way than by calling it."""

from torch import nn
from torch.nn.modules import module as _module


def is_untouched(module: nn.Module) -> bool:
    """Whether nothing depends on a module's being called: no hook on it or on all modules, and no other ``forward``.

    Adapters, quantizers, pruning and counters replace a module, put hooks on it, or change its class or its
    ``forward``; whoever computes with a module's weights directly asks here first, and for its exact type.

    Example:
        >>> conv = nn.Conv2d(1, 1, 1)
        >>> handle = conv.register_forward_hook(print)
        >>> is_untouched(conv)
        False
    """
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not (hooks or "forward" in module.__dict__ or _module._has_any_global_hook())
