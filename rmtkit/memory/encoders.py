"""Recurrent Memory Transformer around any Hugging Face encoder: classification, token labels, masked tokens.

    [CLS] H_t [SEP] ... = Encoder([CLS] M_t [SEP] X_t [SEP])
    M_{t+1} = H_t                             memory is read and written at the same positions, by attention both ways

Paper: Bulatov et al. 2022 (2207.06881); 2023 (2304.11062), section 3. The authors' memory tokens are entries of the
vocabulary; here they are a parameter, as in decoders.

Axis letters: b batch, t tokens, s segment tokens, p positions of a segment, m memory tokens, d width, v classes.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.utils import can_return_tuple

from .alignment import RightAlignedModel
from .base import RMTPreTrainedModel, SegmentOutput, cross_entropy
from .configuration import RMTConfig, backbone_kind
from .modeling import RMTOutput
from .segments import pack, padding_last, reorder, restore


@dataclass
class EncoderSegmentOutput(SegmentOutput):
    """A segment of an encoder: also the logits of its head, (b, v) of the sample or (b, s, v) of its tokens."""

    logits: torch.Tensor | None = None


class RMTEncoder(RMTPreTrainedModel):
    """What encoders with recurrent memory share, whatever their head is."""

    accepts_loss_kwargs = True  # Trainer hands over the number of labels in all micro-batches of an update

    def __init__(self, config: RMTConfig):
        super().__init__(config)
        _check_position_table(self.backbone, config.segment_size + config.num_slots)

    @classmethod
    def check_backbone(cls, backbone: PreTrainedModel) -> None:
        """Raise ValueError for a backbone whose attention is causal."""
        if backbone_kind(backbone.config) != "encoder":
            raise ValueError(
                f"{type(backbone).__name__} is no encoder; take one such as BERT, RoBERTa or ModernBERT, "
                "or wrap it with RMTForCausalLM or RMTForSeq2SeqLM"
            )

    def step(self, segment, state=None, *, attention_mask=None, output_attentions=False):
        """Read one segment as [CLS] M_t [SEP] X_t [SEP] and write the memory.

        Args:    segment (b, s) token ids;  state: M_t (b, m, d), None for M_0;
                 attention_mask (b, s), 1 for text and 0 for padding anywhere, None if there is no padding.
        Returns: EncoderSegmentOutput and M_{t+1} (b, m, d). A sample whose segment is all padding keeps its memory.
        """
        state = self.initial_memory(segment.shape[0]) if state is None else state
        head, tail = self._around(segment, state)
        first, s, m = head.shape[1], segment.shape[1], state.shape[1]
        inputs = torch.cat([head, self.get_input_embeddings()(segment), tail], dim=1)
        order, mask = None, None
        if attention_mask is not None:  # padding behind the last SEP: no position depends on it
            mask = functional.pad(functional.pad(attention_mask, (first, 0), value=1), (0, tail.shape[1]), value=1)
            order = padding_last(mask)
            inputs, mask = reorder(inputs, order), reorder(mask, order)
        output, hidden = self._run_backbone(inputs, mask, output_attentions)
        logits = output.logits
        if order is not None:
            hidden = restore(hidden, order)
            logits = logits if logits.ndim == 2 else restore(logits, order)
        start = int(self.config.cls_token_id is not None)
        written = self._carried(hidden[:, start : start + m], state, attention_mask)
        logits = logits if logits.ndim == 2 else logits[:, first : first + s]
        text = hidden[:, first : first + s]
        return EncoderSegmentOutput(hidden=text, attentions=output.get("attentions"), logits=logits), written

    def _around(self, segment: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what stands before and behind the text: [CLS] M_t [SEP] and [SEP], embedded, (b, ., d)."""
        nothing = state[:, :0]
        cls, sep = (
            nothing if token is None else self.get_input_embeddings()(torch.full_like(segment[:, :1], token))
            for token in (self.config.cls_token_id, self.config.sep_token_id)
        )
        between = sep if state.shape[1] else nothing
        return torch.cat([cls, state, between], dim=1), sep

    def _run_backbone(self, inputs, mask, output_attentions):
        """Run body and head once; return the head's output and the last hidden state of the body, (b, p, d)."""
        caught = []
        with self.backbone.base_model.register_forward_hook(lambda module, given, output: caught.append(output[0])):
            output = self.backbone(inputs_embeds=inputs, attention_mask=mask, output_attentions=output_attentions)
        return output, caught[0]


class RMTForSequenceClassification(RightAlignedModel, RMTEncoder):
    """An encoder with recurrent memory that names the class of a text from its last segment and the memory."""

    auto_class = AutoModelForSequenceClassification

    @can_return_tuple
    def forward(self, input_ids, attention_mask=None, labels=None, state=None, *, num_items_in_batch=None) -> RMTOutput:
        """Run whole samples.

        Args:    input_ids (b, t);  attention_mask (b, t), 0 for padding anywhere, or None;
                 labels (b,): index of the class;  state: memory to start from, (b, m, d);
                 num_items_in_batch: what the loss is divided by instead of the number of labels.
        Returns: RMTOutput: logits (b, v) of the last segment, the cross-entropy if there are labels, the last memory.
        """
        output, _, memory = self._read_to_the_end(input_ids, attention_mask, state)
        loss = None if labels is None else cross_entropy(output.logits, labels, num_items_in_batch)
        return RMTOutput(loss=loss, logits=output.logits, memory=memory)


class RMTTokenModel(RMTEncoder):
    """An encoder with recurrent memory and a head for every token."""

    @can_return_tuple
    def forward(self, input_ids, attention_mask=None, labels=None, state=None, *, num_items_in_batch=None) -> RMTOutput:
        """Run whole samples, cut from the left.

        Args:    input_ids (b, t);  attention_mask (b, t), 0 for padding anywhere, or None;
                 labels (b, t): of each token, -100 = no loss there;  state: memory to start from, (b, m, d);
                 num_items_in_batch: what the loss is divided by instead of the number of labels.
        Returns: RMTOutput: the mean cross-entropy over all labels of all segments, or without labels the logits
                 (b, t, v); the last memory.
        """
        input_ids, attention_mask, labels, order = pack(input_ids, attention_mask, labels)
        logits, labels_kept, memory = self._read_left_to_right(input_ids, attention_mask, labels, state, "logits")
        if labels is None:
            logits = torch.cat(logits, dim=1)
            return RMTOutput(logits=logits if order is None else restore(logits, order), memory=memory)
        if not labels_kept:
            raise ValueError("labels hold no target: every label is -100")
        loss = cross_entropy(torch.cat(logits), torch.cat(labels_kept), num_items_in_batch)
        return RMTOutput(loss=loss, memory=memory)


class RMTForTokenClassification(RMTTokenModel):
    """An encoder with recurrent memory that names the class of every token."""

    auto_class = AutoModelForTokenClassification


class RMTForMaskedLM(RMTTokenModel):
    """An encoder with recurrent memory that fills in masked tokens."""

    auto_class = AutoModelForMaskedLM


def _check_position_table(backbone: PreTrainedModel, num_positions: int) -> None:
    """Raise ValueError if a table of positions is too small; RoBERTa's has unused rows up to that of padding."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            room = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            if num_positions > room:
                raise ValueError(
                    f"segment, memory, CLS and SEP take {num_positions} positions, more than the backbone's {room}; "
                    f"take a segment_size smaller by {num_positions - room}"
                )


AutoModelForSequenceClassification.register(RMTConfig, RMTForSequenceClassification)
AutoModelForTokenClassification.register(RMTConfig, RMTForTokenClassification)
AutoModelForMaskedLM.register(RMTConfig, RMTForMaskedLM)
