"""Whole weights of a model whose parameters are shared out among processes (FSDP 2).

Training works on the shards. Answering, which calls `step` as often as a prompt has segments, and saving work on a copy
with whole weights, which every process gets: the model has to fit one device.
"""

from __future__ import annotations

from torch.distributed.tensor import DTensor

from rmtkit.kinds import model_class
from rmtkit.memory import RMTPreTrainedModel


def is_sharded(model: RMTPreTrainedModel) -> bool:
    """Whether this process holds only a part of the parameters."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_model(model: RMTPreTrainedModel) -> RMTPreTrainedModel:
    """Return the model itself, or a copy with whole weights; then all processes have to call this."""
    if not is_sharded(model):
        return model
    weights = {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in model.state_dict().items()
    }
    copy = model_class(model.config.backbone_config)(model.config)
    copy.load_state_dict(weights)
    return copy.to(device=model.device, dtype=model.dtype).train(model.training)
