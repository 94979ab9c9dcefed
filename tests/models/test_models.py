"""Models: their parts against formulas, how they start, and what they refuse."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import conv1d, cross_entropy, layer_norm, silu

from nested.memory import LinearMemory, SelfModifyingTitans, shut
from nested.models import Hope, ModelConfig, Transformer
from nested.models.attention import Attention, rotate
from nested.models.convolution import Convolution
from nested.models.mixers import MIXERS
from tests.models.models import MODELS
from tests.problems import generator


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def build(mixer, **settings):
    torch.manual_seed(0)
    return Hope(ModelConfig(mixer=mixer, **settings)) if mixer else Transformer(ModelConfig())


@pytest.mark.parametrize("mixer", [None, *MIXERS])
def test_the_first_loss_is_that_of_knowing_nothing(mixer):
    model = build(mixer)
    tokens = torch.randint(256, (4, 65), generator=generator())
    with torch.no_grad():
        logits, _ = model(tokens[:, :-1])
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(256)) < 0.1


def test_attention_is_softmax_of_keys_and_queries():
    attention, x = Attention(8, 2).double(), draw(1, 7, 8)
    q, k, v = attention.project(x).view(1, 7, 3, 2, 4).permute(2, 0, 3, 1, 4)
    q, k = rotate(q, torch.arange(7)), rotate(k, torch.arange(7))
    y = torch.zeros(1, 7, 2, 4, dtype=torch.float64)
    for t in range(7):
        for head in range(2):
            weights = torch.softmax(k[0, head, : t + 1] @ q[0, head, t] / 2, dim=0)
            y[0, t, head] = weights @ v[0, head, : t + 1]
    assert torch.allclose(attention(x)[0], y.flatten(2) @ attention.out.weight.T)


def token(position):
    return torch.tensor([position])


def test_rotation_keeps_norms_and_only_distances_count():
    q, k = draw(1, 1, 1, 6), draw(1, 1, 1, 6, seed=1)
    dot = [(rotate(q, token(at + 5)) * rotate(k, token(at))).sum() for at in (0, 1, 30_000)]
    assert torch.allclose(torch.stack(dot), dot[0]) and not torch.allclose(dot[0], (q * k).sum())
    assert torch.allclose(rotate(q, token(30_000)).norm(), q.norm())
    pairs = torch.view_as_complex(q.view(2, 3).T.contiguous())  # i with i + E / 2
    speeds = 10000 ** (-torch.arange(3, dtype=torch.float64) / 3)
    turned = pairs * torch.polar(torch.ones_like(speeds), 7 * speeds)
    assert torch.allclose(rotate(q, token(7)).view(2, 3).T, torch.view_as_real(turned))


def test_the_convolution_is_that_of_torch():
    convolution, x = Convolution(5).double(), draw(2, 9, 5)
    with torch.no_grad():
        convolution.mix.normal_()
    kernel = convolution.mix.T[:, None].clone()
    kernel[..., -1] += 1  # the token itself
    wanted = conv1d(torch.nn.functional.pad(x.mT, (3, 0)), kernel, groups=5).mT
    y, state = convolution(x)
    assert torch.allclose(y, wanted) and torch.equal(state, x[:, -3:])


def test_with_gates_shut_hope_is_a_plain_net():
    model = Hope(ModelConfig(11, 8, 1, 2, "linear", (2, 4), 4)).double()
    shut(model)
    tokens = torch.randint(11, (2, 9), generator=generator())
    x, block = model.embed(tokens), model.blocks[0]  # the linear memory stays empty: it adds 0
    flow = layer_norm(x, (8,), block.before_continuum.weight)
    for level in block.continuum.levels:
        flow = flow + silu(flow @ level.query.weight.T @ level.w2.T) @ level.w1.T
    wanted = layer_norm(x + flow, (8,), model.norm.weight) @ model.head.weight.T
    assert torch.allclose(model(tokens)[0], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod"])
def test_with_gates_shut_only_the_convolution_looks_back(mixer):
    model = Hope(ModelConfig(11, 8, 1, 2, mixer, (2, 4), 4)).double()
    torch.nn.init.normal_(model.blocks[0].convolution.mix)
    shut(model)
    tokens = torch.randint(11, (1, 12), generator=generator())
    other = tokens.clone()
    other[:, 0] = (tokens[:, 0] + 1) % 11
    apart = (model(tokens)[0] - model(other)[0]).abs().amax(-1)[0]
    reach = 1 if mixer == "linear" else 4  # an empty matrix reads as 0
    assert (apart[:reach] > 1e-9).all() and (apart[reach:] < 1e-12).all()


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod"])
def test_a_text_read_in_pieces_is_one_text(mixer, monkeypatch):
    model, tokens = MODELS[mixer](8, 4).double(), torch.randint(11, (2, 23), generator=generator())
    found = []
    for piece in (256, 5):
        monkeypatch.setattr("nested.models.hope.PIECE", piece)
        logits, state = model(tokens)
        slopes = torch.autograd.grad(logits.square().sum(), [*model.parameters()])
        found.append([logits, *slopes, *leaves(state)])
    assert len({len(each) for each in found}) == 1
    for whole, parts in zip(*found):
        assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_state_of_attention_grows(name):
    model, sizes = MODELS[name](8, 4), []
    with torch.no_grad():
        state = None
        for length in (5, 40):
            _, state = model(torch.zeros(1, length, dtype=torch.int64), state)
            sizes.append(sum(leaf.numel() for leaf in leaves(state)))
    assert (sizes[1] > sizes[0]) == (name in ("transformer", "attention"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_reads_as_the_cpu_does(name):
    model, tokens = MODELS[name](8, 4).double(), torch.randint(11, (2, 37), generator=generator())
    first, state = model(tokens[:, :20])
    second, _ = model(tokens[:, 20:], state)
    model.cuda()
    theirs, state = model(tokens[:, :20].cuda())
    later, _ = model(tokens[:, 20:].cuda(), state)
    for ours, other in ((first, theirs), (second, later)):
        assert torch.allclose(ours, other.cpu(), rtol=0, atol=1e-9)


def leaves(state):
    if isinstance(state, dict):
        state = tuple(state.values())
    return (
        [leaf for part in state for leaf in leaves(part)] if isinstance(state, tuple) else [state]
    )


def test_a_model_moves_between_dtypes_with_its_state():
    model, tokens = MODELS["selfmod"](8, 4), torch.zeros(2, 9, dtype=torch.int64)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        logits, state = model.to(dtype)(tokens)
        block, wide = state["blocks"][0], torch.promote_types(dtype, torch.float32)
        memories = [leaf for part in ("mixer", "continuum") for leaf in leaves(block[part])]
        assert {leaf.dtype for leaf in memories if leaf.is_floating_point()} == {wide}
        assert logits.dtype == block["convolution"].dtype == dtype  # a cache loses nothing
        assert logits.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear", "titans", "selfmod", "attention"])
def test_a_hope_in_half_precision_keeps_what_its_memories_wrote(name, dtype):
    torch.manual_seed(0)
    model = MODELS[name](16, 16).to(dtype)
    wide, tokens = copy.deepcopy(model).float(), torch.randint(11, (1, 1024), generator=generator())
    with torch.no_grad():
        first, (logits, state), (wanted, kept) = wide.init(1), model(tokens), wide(tokens)
    assert logits.dtype == dtype and (logits - wanted).norm() < 0.03 * wanted.norm()
    before, ours, theirs = (
        [w for block in each["blocks"] for w in leaves(block["continuum"]["memory"])]
        for each in (first, state, kept)
    )
    for a, b, c in zip(before, ours, theirs, strict=True):
        assert (b - c).norm() <= 0.02 * (c - a).norm()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"vocab": 0}, "vocab is a whole number from 1, but got 0"),
        ({"layers": 1.5}, "layers is a whole number from 1, but got 1.5"),
        ({"dim": 20}, "dim is a multiple of 2 x heads, which is 8, but got 20"),
        ({"mixer": "mamba"}, "mixer is one of .* but got 'mamba'"),
        ({"mixer": ("linear", "mamba")}, "mixer is one of .* but got 'mamba'"),
        ({"mixer": ("linear",)}, r"mixer is one name, or one for each of 2 blocks, but got \('lin"),
        ({"objective": "huber"}, "objective is one of .* but got 'huber'"),
        (
            {"mixer": "titans", "products": 2},
            r"one of \('selfmod', 'linear'\), but got 'titans' with",
        ),
        ({"objective": ("l2",) * 3}, "objective is one name, or one for each of 2 blocks, but got"),
        ({"vocab": 10**12}, "vocab cannot be over 1,073,741,824, but got 1,000,000,000,000"),
        ({"periods": ()}, "periods are one or more numbers of tokens"),
        ({"periods": (16, 0)}, "period is a whole number from 1, but got 0"),
        ({"periods": (64, 16)}, r"periods rise from fast to slow, but got \(64, 16\)"),
        ({"periods": 16}, "periods are one or more numbers of tokens, but got 16"),
        ({"detach_every": 0}, "detach_every is a whole number from 1, but got 0"),
        (
            {"detach_every": 16},
            "detach_every=16 cuts the graph wherever weights that move every 16",
        ),
        ({"detach_every": 64, "periods": (100,)}, "weights that move every 64 tokens"),
    ],
)
def test_a_config_refuses_early(wrong, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig(**wrong)


@pytest.mark.parametrize(
    "state",
    [
        {"blocks": 3},
        {"blocks": None},
        3,
        {},
        {"blocks": ({"attention": {"keys": 1, "values": 2}},) * 2},
    ],
)
def test_states_that_are_none_are_refused_in_words(state):
    with pytest.raises(ValueError, match="None starts anew"):
        MODELS["transformer"](8, 4)(torch.zeros(2, 3, dtype=torch.int64), state)


def test_keys_and_values_are_of_one_length():
    model = MODELS["transformer"](8, 4)
    _, state = model(torch.zeros(2, 3, dtype=torch.int64))
    cache = state["blocks"][0]["attention"]
    cache["values"] = cache["values"][:, :, 1:]
    with pytest.raises(ValueError, match=r"values is \(2, 2, 2, 4\) .*, but here \(2, 2, 3, 4\)"):
        model(torch.zeros(2, 1, dtype=torch.int64), state)


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod"])
def test_a_hope_gives_its_memories_what_its_config_says(mixer):
    config = ModelConfig(11, 8, 2, 2, mixer, (2, 6), 4, objective="dot", detach_every=5)
    for block in Hope(config).blocks:
        assert (block.mixer.chunk, block.mixer.detach_every) == (4, 5)
        assert mixer == "titans" or block.mixer.objective == "dot"
        assert (block.continuum.periods, block.continuum.detach_every) == ((2, 6), 5)


def test_each_block_of_a_hope_can_have_a_mixer_and_an_objective_of_its_own():
    config = ModelConfig(11, 8, 3, 2, ["selfmod", "attention", "linear"], objective="dot")
    kinds = [type(block.mixer) for block in Hope(config).blocks]
    mixed = replace(config, products=2)
    assert [mixed.for_block(i).products for i in range(3)] == [2, 1, 2]
    assert kinds == [SelfModifyingTitans, Attention, LinearMemory]
    assert config == ModelConfig(11, 8, 3, 2, ("selfmod", "attention", "linear"), objective="dot")
    both = Hope(ModelConfig(11, 8, 2, 2, "linear", objective=("l2", "dot")))
    assert [block.mixer.objective for block in both.blocks] == ["l2", "dot"]


def test_a_transformer_has_the_parameters_that_are_usual():
    """Attention 4 D^2, a net of 4 D hidden units 8 D^2, a LayerNorm before each and the head."""
    count = sum(p.numel() for p in Transformer(ModelConfig(50, 16, 3, 2)).parameters())
    assert count == 2 * 50 * 16 + 3 * 12 * 16**2 + 7 * 16


def test_only_memories_that_move_by_chunks_restrict_where_graphs_are_cut():
    for mixer in ("linear", "titans", "attention"):
        assert ModelConfig(mixer=mixer, chunk=64, periods=(100,), detach_every=64)


def test_a_hope_cuts_graphs_where_its_config_says():
    tokens = torch.randint(11, (1, 12), generator=generator())
    grads = []
    for cut in (None, 5):
        torch.manual_seed(0)
        model = Hope(ModelConfig(11, 8, 1, 2, "titans", (2, 4), 4, detach_every=cut)).double()
        logits, _ = model(tokens)
        grads.append(torch.autograd.grad(logits[:, 8:].sum(), model.blocks[0].mixer.w2)[0])
    assert grads[1].abs().max() == 0 < grads[0].abs().max()


def test_states_of_other_models_are_refused_in_words():
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    models = {name: MODELS[name](8, 4) for name in MODELS}
    states = {name: model.init(2) for name, model in models.items()}
    for name, model in models.items():
        for other, state in states.items():
            if other.split(",")[0] != name.split(",")[0] or len(model.blocks) != len(
                state["blocks"]
            ):
                with pytest.raises(ValueError, match="None starts anew"):
                    model(tokens, state)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_leaves_states_as_they_are(name):
    model, tokens = MODELS[name](8, 4), torch.randint(11, (2, 9), generator=generator())
    wanted, _ = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(tokens)
        logits, state = model(tokens, state)
    model(tokens, state)
    floats = [leaf for leaf in leaves(state) if leaf.is_floating_point()]
    assert logits.dtype == torch.bfloat16 and {leaf.dtype for leaf in floats} == {wanted.dtype}


def test_a_state_of_another_dtype_is_refused_in_words():
    model, tokens = MODELS["linear"](8, 4), torch.zeros(2, 9, dtype=torch.int64)
    _, state = MODELS["linear"](8, 4).double()(tokens)
    with pytest.raises(ValueError, match="torch.float64.*but here.*torch.float32"):
        model(tokens, state)


@pytest.mark.parametrize("mixer", ["linear", "titans", "selfmod", "attention"])
def test_the_mixer_gets_the_settings_of_the_config(mixer):
    products = 2 if MIXERS[mixer].has_products else 1
    settings = {"objective": "dot", "products": products, "detach_every": 5}
    config = ModelConfig(8, 16, 1, 2, mixer, (4,), 3, **settings)
    built = Hope(config).blocks[0].mixer
    settings = {"heads", "chunk", *settings} & vars(built).keys()
    assert "heads" in settings and ("products" in settings) == (products == 2)
    assert all(getattr(built, name) == getattr(config, name) for name in settings)
