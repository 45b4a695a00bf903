"""One recurrence: the step against a slow version, whole input against pieces, padding, the loss, BPTT."""

import pytest
import torch
from torch.nn import functional

from rmtkit.memory import split_segments

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def slow_step(backbone, segment, state):
    """Compute a step with nothing left to the library: explicit positions and a float mask (1, 1, t, t)."""
    embeddings = torch.cat([state, backbone.get_input_embeddings()(segment), state], dim=1)
    t, m = embeddings.shape[1], state.shape[1]
    blocked = torch.full((t, t), torch.finfo(torch.float32).min).triu(1)
    output = backbone(
        inputs_embeds=embeddings, attention_mask=blocked[None, None].expand(len(segment), 1, t, t),
        position_ids=torch.arange(t)[None], use_cache=False, output_hidden_states=True,
    )  # fmt: skip
    hidden = output.hidden_states[-1]
    return hidden[:, m : t - m], hidden[:, t - m :]


def slow_logits(backbone, input_ids, state, segment_size, *, cut_before=()):
    """Run a sample by `slow_step`; the state is detached before the segments in `cut_before`."""
    hidden = []
    for index, start in enumerate(range(0, input_ids.shape[1], segment_size)):
        state = state.detach() if index in cut_before else state
        segment_hidden, state = slow_step(backbone, input_ids[:, start : start + segment_size], state)
        hidden.append(segment_hidden)
    return backbone.get_output_embeddings()(torch.cat(hidden, dim=1)), state


def shifted_loss(logits, labels):
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def backward(model, loss):
    model.zero_grad()
    loss.backward()
    return gradients(model)


def assert_same_gradients(found, expected):
    nonzero = {name for name, grad in expected.items() if grad.abs().max() > 0}
    assert nonzero and nonzero <= set(found)
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected.get(name, torch.zeros_like(grad)), **CLOSE)


def test_forward_without_memory_equals_backbone_bit_for_bit(architecture, make_model, make_tokens):
    model, tokens = make_model(architecture, num_memory_tokens=0, segment_size=12), make_tokens(2, 12)
    assert torch.equal(model(tokens).logits, model.backbone(tokens, use_cache=False).logits)


def test_step_equals_slow_version(architecture, make_model, make_backbone, make_tokens):
    model, tokens = make_model(architecture), make_tokens(2, 5)
    output, memory = model.step(tokens)
    slow = make_backbone(architecture, attention="eager")
    hidden, slow_memory = slow_step(slow, tokens, model.initial_memory(2))
    torch.testing.assert_close(output.hidden, hidden, **CLOSE)
    torch.testing.assert_close(memory, slow_memory, **CLOSE)


def test_forward_gradients_equal_slow_version(architecture, make_model, make_backbone, make_tokens):
    model, tokens = make_model(architecture), make_tokens(2, 13)
    model.backbone.set_attn_implementation("eager")
    found = backward(model, model(tokens, labels=tokens).loss)
    logits, _ = slow_logits(model.backbone, tokens, model.initial_memory(2), 5)
    assert_same_gradients(found, backward(model, shifted_loss(logits, tokens)))
    assert set(found) == {name for name, _ in model.named_parameters()}


def test_split_segments_keeps_every_token(make_tokens):
    tokens = make_tokens(2, 13)
    segments = split_segments(tokens, 5)
    assert [segment.shape[1] for segment in segments] == [5, 5, 3]
    assert torch.equal(torch.cat(segments, dim=1), tokens)


@pytest.mark.parametrize("borders", [(0, 5, 13), (0, 10, 13), (0, 5, 10, 13)])
def test_forward_in_pieces_equals_whole(architecture, make_model, make_tokens, borders):
    model, tokens = make_model(architecture), make_tokens(2, 13)
    whole, state, logits = model(tokens), None, []
    for start, end in zip(borders, borders[1:], strict=False):
        output = model(tokens[:, start:end], state=state)
        logits.append(output.logits)
        state = output.memory
    torch.testing.assert_close(torch.cat(logits, dim=1), whole.logits, **CLOSE)
    torch.testing.assert_close(state, whole.memory, **CLOSE)


def test_forward_depends_on_first_segment_through_memory_only(make_model, make_tokens):
    tokens = make_tokens(1, 10)
    other = torch.cat([make_tokens(1, 5, seed=9), tokens[:, 5:]], dim=1)
    with_memory, without = make_model(), make_model(num_memory_tokens=0)
    assert not torch.allclose(with_memory(tokens).logits[:, 5:], with_memory(other).logits[:, 5:])
    torch.testing.assert_close(without(tokens).logits[:, 5:], without(other).logits[:, 5:])


@pytest.mark.parametrize("num_tokens", [10, 13])
def test_forward_loss_crosses_segment_borders(make_model, make_tokens, num_tokens):
    model, tokens = make_model(), make_tokens(2, num_tokens)
    expected = shifted_loss(slow_logits(model.backbone, tokens, model.initial_memory(2), 5)[0], tokens)
    torch.testing.assert_close(model(tokens, labels=tokens).loss, expected, **CLOSE)


def test_forward_loss_takes_given_labels_only(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 13)
    labels = torch.full_like(tokens, -100)
    labels[0, 5], labels[1, 12], labels[1, 0] = tokens[0, 5], tokens[1, 12], tokens[1, 0]  # the last is never predicted
    logits = model(tokens).logits
    expected = functional.cross_entropy(logits[[0, 1], [4, 11]], tokens[[0, 1], [5, 12]])
    torch.testing.assert_close(model(tokens, labels=labels).loss, expected, **CLOSE)


def test_forward_without_any_label_raises(make_model, make_tokens):
    tokens = make_tokens(2, 7)
    labels = torch.full_like(tokens, -100)
    labels[:, 0] = tokens[:, 0]
    with pytest.raises(ValueError, match="no target"):
        make_model()(tokens, labels=labels)


def test_forward_keeps_the_last_logits_only(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 12)
    torch.testing.assert_close(model(tokens, logits_to_keep=4).logits, model(tokens).logits[:, -4:], **CLOSE)


@pytest.mark.parametrize("num_tokens", [18, 13])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_bptt_depth_counts_from_the_end_of_the_sample(make_model, make_tokens, depth, num_tokens):
    model, tokens = make_model(bptt_depth=depth), make_tokens(2, num_tokens)
    num_segments = -(-num_tokens // 5)
    cut_before = [index for index in range(1, num_segments) if index <= num_segments - depth]
    logits, _ = slow_logits(model.backbone, tokens, model.initial_memory(2), 5, cut_before=cut_before)
    expected = backward(model, shifted_loss(logits, tokens))
    assert_same_gradients(backward(model, model(tokens, labels=tokens).loss), expected)


@pytest.mark.parametrize("depth", [4, 9])
def test_bptt_depth_of_all_segments_equals_full(make_model, make_tokens, depth):
    model, tokens = make_model(), make_tokens(2, 18)
    full = backward(model, model(tokens, labels=tokens).loss)
    model.config.bptt_depth = depth
    assert_same_gradients(backward(model, model(tokens, labels=tokens).loss), full)


def test_bptt_depth_one_lets_no_gradient_cross_a_border(make_model, make_tokens):
    model, tokens = make_model(bptt_depth=1), make_tokens(2, 13)
    labels = tokens.clone()
    labels[:, :11] = -100  # predicted from within the last segment
    backward(model, model(tokens, labels=labels).loss)
    assert model.memory.grad is None
    start = model.initial_memory(2).detach().requires_grad_()
    assert not torch.autograd.grad(model(tokens, labels=labels, state=start).loss, start, allow_unused=True)[0]


def test_bptt_depth_frees_the_segments_before_it(make_model, make_tokens):
    """What has no label and lies before the depth must not stay in the graph: that is what the depth is for."""
    model, tokens = make_model(bptt_depth=1), make_tokens(1, 15)
    labels = torch.full_like(tokens, -100)
    labels[:, -1] = tokens[:, -1]
    nodes, waiting = set(), [model(tokens, labels=labels).loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    lookups = [node for node in nodes if node.name() == "EmbeddingBackward0"]
    assert len(lookups) == 2  # tokens and positions of one segment


def test_segment_checkpointing_changes_no_gradient(architecture, make_model, make_tokens):
    model, tokens = make_model(architecture).train(), make_tokens(2, 13)
    mask = torch.ones_like(tokens)
    plain = model(tokens, labels=tokens, attention_mask=mask).loss
    expected = backward(model, plain)
    model.config.segment_checkpointing = True
    recomputed = model(tokens, labels=tokens, attention_mask=mask).loss
    torch.testing.assert_close(recomputed, plain)
    assert_same_gradients(backward(model, recomputed), expected)


def test_segment_checkpointing_recomputes(make_model, make_tokens, monkeypatch):
    model, calls = make_model(segment_checkpointing=True).train(), []
    step = model.step
    monkeypatch.setattr(model, "step", lambda *a, **k: calls.append(1) or step(*a, **k))
    tokens = make_tokens(1, 15)
    model(tokens, labels=tokens).loss.backward()
    assert len(calls) == 6


def test_segment_checkpointing_keeps_dropout(make_model, make_tokens):
    model, tokens = make_model().train(), make_tokens(2, 13)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    losses, grads = [], []
    for is_recomputed in (False, True):
        model.config.segment_checkpointing = is_recomputed
        torch.manual_seed(7)
        losses.append(model(tokens, labels=tokens).loss)
        grads.append(backward(model, losses[-1]))
    torch.testing.assert_close(losses[1], losses[0])
    assert_same_gradients(grads[1], grads[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the name changes in transformers 6
def test_gradient_checkpointing_of_the_backbone_changes_no_gradient(architecture, make_model, make_tokens):
    model, tokens = make_model(architecture).train(), make_tokens(2, 13)
    expected = backward(model, model(tokens, labels=tokens).loss)
    model.gradient_checkpointing_enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert_same_gradients(backward(model, model(tokens, labels=tokens).loss), expected)


# ---------------------------------------------------------------- padding


def padded(tokens, num_pads, *, side, seed):
    """Put random pads on one side of each row; return tokens and mask."""
    pads = torch.randint(1, 48, (len(tokens), num_pads), generator=torch.Generator().manual_seed(seed))
    ones, zeros = torch.ones_like(tokens), torch.zeros_like(pads)
    if side == "left":
        return torch.cat([pads, tokens], dim=1), torch.cat([zeros, ones], dim=1)
    return torch.cat([tokens, pads], dim=1), torch.cat([ones, zeros], dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_step_does_not_see_padding(architecture, make_model, make_tokens, side, attention):
    model, tokens = make_model(architecture, attention=attention), make_tokens(2, 4)
    state = model.step(make_tokens(2, 5, seed=5))[1]
    plain, memory = model.step(tokens, state)
    for seed in (1, 2):
        segment, mask = padded(tokens, 3, side=side, seed=seed)
        output, padded_memory = model.step(segment, state, attention_mask=mask)
        torch.testing.assert_close(output.hidden[mask.bool()], plain.hidden.flatten(0, 1), **CLOSE)
        torch.testing.assert_close(padded_memory, memory, **CLOSE)


def test_step_of_padding_alone_keeps_memory(architecture, make_model, make_tokens):
    model, tokens = make_model(architecture), make_tokens(2, 5)
    state = model.step(make_tokens(2, 5, seed=5))[1]
    mask = torch.tensor([[1] * 5, [0] * 5])
    _, memory = model.step(tokens, state, attention_mask=mask)
    assert torch.equal(memory[1], state[1])
    torch.testing.assert_close(memory[:1], model.step(tokens[:1], state[:1])[1], **CLOSE)


def test_forward_of_a_mixed_batch_equals_its_rows_alone(architecture, make_model, make_tokens):
    model, tokens = make_model(architecture), make_tokens(3, 13)
    lengths = (13, 10, 4)
    mask = torch.tensor([[1] * length + [0] * (13 - length) for length in lengths])
    together = model(tokens, attention_mask=mask)
    for row, length in enumerate(lengths):
        alone = model(tokens[row : row + 1, :length])
        torch.testing.assert_close(together.logits[row, :length], alone.logits[0], **CLOSE)
        torch.testing.assert_close(together.memory[row], alone.memory[0], **CLOSE)


def test_forward_with_padding_has_finite_gradients(make_model, make_tokens):
    model, tokens = make_model(num_memory_tokens=0), make_tokens(2, 10)
    mask = torch.tensor([[0] * 7 + [1] * 3, [1] * 10])
    found = backward(model, model(tokens, labels=tokens.masked_fill(mask == 0, -100), attention_mask=mask).loss)
    assert all(grad.isfinite().all() for grad in found.values())
