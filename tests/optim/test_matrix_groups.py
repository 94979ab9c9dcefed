"""Groups of matrices, stacks and the rest: how ``M3`` moves them, and how models are sorted."""

import pytest
import torch
from torch import Generator, nn

from nested.models import Hope, ModelConfig, Transformer
from nested.optim import M3, matrix_groups


def draw(shape, seed):
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def run(optimizer, params, steps=7):
    for k in range(steps):
        for i, p in enumerate(params):
            p.grad = draw(p.shape, 100 * i + k)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("shape", [(5,), (), (4, 6), (3, 4, 6)], ids=str)
def test_what_is_no_matrix_takes_the_adamw_rule_bit_for_bit(shape):
    settings = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    p, q = (nn.Parameter(draw(shape, 0)) for _ in range(2))
    group = {"params": [p], "matrices": False}
    ours = run(M3([group], 0.1, **settings), [p])
    theirs = run(torch.optim.AdamW([q], 0.1, **settings), [q])
    assert torch.equal(ours[0], theirs[0])


FORMS = [{}, {"form": "paper", "eps": 0.1}, {"slow_weight": 0.0, "second_moment": False}]


@pytest.mark.parametrize("settings", FORMS, ids=["ema", "paper", "Muon"])
@pytest.mark.parametrize("shape", [(3, 4, 6), (2, 2, 6, 4), (4, 6)], ids=str)
def test_a_stack_moves_as_its_matrices_would_alone(shape, settings):
    stack = nn.Parameter(draw(shape, 0))
    alone = [nn.Parameter(x.clone()) for x in draw(shape, 0).reshape(-1, *shape[-2:])]
    stacked = M3([{"params": [stack], "matrices": "stacks"}], 0.1, period=3, **settings)
    single = M3(alone, 0.1, period=3, **settings)
    for k in range(7):
        stack.grad = draw(shape, k)
        for p, g in zip(alone, stack.grad.reshape(-1, *shape[-2:])):
            p.grad = g.clone()
        stacked.step()
        single.step()
    expected = torch.stack([p.detach() for p in alone]).view(shape)
    assert torch.allclose(stack, expected, rtol=1e-9, atol=1e-11)


def test_groups_of_all_kinds_are_saved_and_loaded():
    def make():
        params = [nn.Parameter(draw((3, 4, 6), i)) for i in range(3)]
        kinds = (True, False, "stacks")
        groups = [{"params": [p], "matrices": kind} for p, kind in zip(params, kinds)]
        return params, M3(groups, 0.1, period=3)

    params, optimizer = make()
    run(optimizer, params, 4)
    again, loaded = make()
    for p, q in zip(params, again):
        q.data.copy_(p.data)
    loaded.load_state_dict(optimizer.state_dict())
    assert all(
        torch.equal(p, q) for p, q in zip(run(optimizer, params), run(loaded, again), strict=True)
    )


def test_a_state_from_before_there_were_kinds_is_loaded():
    p = nn.Parameter(draw((4, 6), 0))
    optimizer = M3([p], 0.1)
    run(optimizer, [p], 2)
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["matrices"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["matrices"] is True


@pytest.mark.parametrize("wrong", ["yes", None, 1, 0, "stack"])
def test_other_kinds_are_refused(wrong):
    with pytest.raises(ValueError, match='matrices is True, False or "stacks", but got'):
        M3([{"params": [nn.Parameter(torch.ones(2, 2))], "matrices": wrong}], 0.1)


def names_by_kind(model):
    names = {p: name for name, p in model.named_parameters()}
    groups = matrix_groups(model, lr=0.3)
    assert all(group["lr"] == 0.3 for group in groups)
    found = {group["matrices"]: {names[p] for p in group["params"]} for group in groups}
    together = [p for group in groups for p in group["params"]]
    assert len(together) == len(set(together)) == len(names)
    return found


class Language(nn.Module):
    """A byte model as people write them, with all that is no matrix."""

    def __init__(self, tied=False):
        super().__init__()
        self.token = nn.Embedding(11, 8)
        self.pos_embed = nn.Parameter(torch.zeros(1, 6, 8))
        self.cls = nn.Parameter(torch.zeros(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.experts = nn.Parameter(torch.randn(3, 8, 16))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=not tied)
        if tied:
            self.head.weight = self.token.weight
        self.value = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 5), nn.LayerNorm(5))


@pytest.mark.parametrize("tied", [False, True])
def test_a_transformer_is_sorted(tied):
    found = names_by_kind(Language(tied))
    layer = "body.layers.0."
    matrices = {"self_attn.in_proj_weight", "self_attn.out_proj.weight"}
    matrices |= {"linear1.weight", "linear2.weight"}
    value = {"value.0.weight", "value.1.weight"}
    assert found[True] == {layer + name for name in matrices} | value
    assert found["stacks"] == {"experts"}
    apart = {"token.weight", "pos_embed", "cls", "norm.weight", "norm.bias", "value.0.bias"}
    assert found[False] >= apart
    assert ("head.weight" in found[False]) != tied
    assert not any(name.endswith("weight") and "linear" in name for name in found[False])


@pytest.mark.parametrize("model", [Hope, Transformer])
def test_the_models_of_the_package_are_sorted(model):
    net = model(ModelConfig(vocab=32, dim=16, layers=1, heads=2, periods=(4, 8), chunk=4))
    found = names_by_kind(net)
    assert {"embed.weight", "head.weight", "norm.weight"} <= found[False]
    shapes = {name: p.shape for name, p in net.named_parameters()}
    assert all(len(shapes[name]) == 2 and min(shapes[name]) > 1 for name in found[True])
    if model is Hope:
        assert found["stacks"] == {"blocks.0.mixer.w1", "blocks.0.mixer.w2"}
        assert {"blocks.0.convolution.mix", "blocks.0.mixer.rate_gates"} <= found[False]
        assert "blocks.0.continuum.levels.0.w1" in found[True]
    tokens = torch.randint(32, (2, 9), generator=Generator().manual_seed(0))
    optimizer, losses = M3(matrix_groups(net), 0.01, period=3), []
    for _ in range(8):
        optimizer.zero_grad()
        logits, _ = net(tokens[:, :-1])
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_other_nets_are_sorted():
    image = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Linear(8, 4)
    )
    found = names_by_kind(image)
    assert found[True] == {"0.weight"} and "stacks" not in found
    assert {"1.weight", "3.weight"} <= found[False]
    body = nn.TransformerEncoderLayer(8, 2, 16)  # no head: its last Linear is a matrix
    assert "linear2.weight" in names_by_kind(body)[True]
    recurrent = names_by_kind(nn.ModuleList([nn.EmbeddingBag(9, 4), nn.GRU(4, 6)]))
    assert recurrent[True] == {"1.weight_ih_l0", "1.weight_hh_l0"}
    assert "0.weight" in recurrent[False]
    with pytest.raises(TypeError, match="sorts the parameters of a module"):
        matrix_groups(image.parameters())
