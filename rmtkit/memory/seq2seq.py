"""Recurrent Memory Transformer around any Hugging Face encoder-decoder.

    [H_t ; E_t] = Encoder([M_t ; X_t])         M_{t+1} = H_t
    answer      = Decoder([H_n ; E_n])         of the last segment n only

The authors' code (modeling_rmt/conditional_generation.py) runs the decoder on every segment in training and on the last
one in generation; here both see the last segment and what the memory kept of the others.

Axis letters: b batch, t tokens, s segment tokens, m memory tokens, d width, a answer tokens, v vocabulary, n segments.
"""

import torch
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .alignment import RightAlignedModel
from .base import SegmentOutput, cross_entropy
from .configuration import RMTConfig, backbone_kind
from .modeling import RMTOutput
from .segments import padding_last, reorder, restore


class RMTForSeq2SeqLM(RightAlignedModel, GenerationMixin):
    """An encoder-decoder whose encoder has recurrent memory."""

    auto_class = AutoModelForSeq2SeqLM
    accepts_loss_kwargs = True  # Trainer hands over the number of labels in all micro-batches of an update

    @classmethod
    def from_backbone(cls, backbone, **settings) -> "RMTForSeq2SeqLM":
        """Wrap a pretrained model as `RMTPreTrainedModel.from_backbone` does; its generation settings are kept."""
        model = super().from_backbone(backbone, **settings)
        model.generation_config = model.backbone.generation_config
        return model

    @classmethod
    def check_backbone(cls, backbone: PreTrainedModel) -> None:
        """Raise ValueError for a backbone without encoder and decoder."""
        if backbone_kind(backbone.config) != "encoder-decoder":
            raise ValueError(f"{type(backbone).__name__} is no encoder-decoder; take one such as T5 or BART")

    def get_input_embeddings(self):
        """Return the token embedding of the encoder; BART's scales its output."""
        return self.backbone.get_encoder().get_input_embeddings()

    def step(self, segment, state=None, *, attention_mask=None, output_attentions=False):
        """Read one segment as [M_t ; X_t] and write the memory.

        Args:    segment (b, s) token ids;  state: M_t (b, m, d), None for M_0;
                 attention_mask (b, s), 1 for text and 0 for padding anywhere, None if there is no padding.
        Returns: SegmentOutput and M_{t+1} (b, m, d). A sample whose segment is all padding keeps its memory.
        """
        state = self.initial_memory(segment.shape[0]) if state is None else state
        m, inputs = state.shape[1], torch.cat([state, self.get_input_embeddings()(segment)], dim=1)
        order, mask = None, None
        if attention_mask is not None:  # padding at the end: no position depends on it
            mask = functional.pad(attention_mask, (m, 0), value=1)
            order = padding_last(mask)
            inputs, mask = reorder(inputs, order), reorder(mask, order)
        output = self.backbone.get_encoder()(
            inputs_embeds=inputs, attention_mask=mask, output_attentions=output_attentions
        )
        hidden = output.last_hidden_state if order is None else restore(output.last_hidden_state, order)
        written = self._carried(hidden[:, :m], state, attention_mask)
        return SegmentOutput(hidden=hidden[:, m:], attentions=output.get("attentions")), written

    def _encode(self, input_ids, attention_mask, state) -> tuple[dict, torch.Tensor]:
        """Read whole samples (b, t); return [M ; E] of the last segment, which the decoder attends to, and M."""
        output, mask, memory = self._read_to_the_end(input_ids, attention_mask, state)
        hidden = torch.cat([memory, output.hidden], dim=1)
        if mask is None:
            mask = torch.ones_like(output.hidden[..., 0], dtype=torch.long)
        mask = functional.pad(mask, (memory.shape[1], 0), value=1)
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=hidden), "attention_mask": mask}, memory

    @can_return_tuple
    def forward(
        self, input_ids, attention_mask=None, labels=None, state=None, *, decoder_input_ids=None,
        num_items_in_batch=None,
    ) -> RMTOutput:  # fmt: skip
        """Run whole samples.

        Args:    input_ids (b, t), each sample with its EOS;  attention_mask (b, t), 0 for padding anywhere, or None;
                 labels (b, a): the answer, -100 = no loss there;  state: memory to start from, (b, m, d);
                 decoder_input_ids (b, a): what the decoder reads, None: the labels, shifted;
                 num_items_in_batch: what the loss is divided by instead of the number of labels.
        Returns: RMTOutput: logits (b, a, v), the mean cross-entropy if there are labels, the last memory.
        """
        encoded, memory = self._encode(input_ids, attention_mask, state)
        labels = None if labels is None else labels.contiguous()
        logits = self.backbone(**encoded, labels=labels, decoder_input_ids=decoder_input_ids, use_cache=False).logits
        loss = None
        if labels is not None:
            loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), num_items_in_batch)
        return RMTOutput(loss=loss, logits=logits, memory=memory)

    @torch.no_grad()
    def generate(self, input_ids, attention_mask=None, state=None, **options) -> torch.Tensor:
        """Answer samples by transformers' `generate`.

        Args:    input_ids (b, t) of any integer type, numpy or torch;  attention_mask (b, t), 0 for padding anywhere;
                 state: memory to start from, (b, m, d);  options: those of transformers.
        Returns: the decoder's tokens with its start token, (b, 1 + new), as transformers does for encoder-decoders.
        """
        encoded, _ = self._encode(self._on_device(input_ids), attention_mask, state)
        options.setdefault("generation_config", self.generation_config)
        return self.backbone.generate(**encoded, **options)


AutoModelForSeq2SeqLM.register(RMTConfig, RMTForSeq2SeqLM)
