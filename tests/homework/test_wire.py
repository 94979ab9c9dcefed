"""What is sent arrives: values, shapes and dtypes, against safetensors' own writer."""

import pytest
import safetensors.torch
import torch

from nested.homework.wire import DTYPES, HEAD, _body, pack, unpack
from nested.homework.worker import answer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3)], ids=str)
def test_bytes_are_those_that_safetensors_reads(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    tensor = (5 * torch.randn(shape, generator=generator)).to(dtype)
    tensors = {"0": tensor, "1": tensor.clone().mT if len(shape) == 2 else tensor, "2": tensor}
    ours = safetensors.torch.load(_body(tensors))
    copies = {name: x.clone().contiguous() for name, x in tensors.items()}
    theirs = safetensors.torch.load(safetensors.torch.save(copies))
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        assert ours[name].dtype == x.dtype and ours[name].shape == x.shape
        assert torch.equal(ours[name], x)


def test_a_tree_comes_back_without_its_graph_or_its_memory():
    weights = torch.randn(3, 2, requires_grad=True)
    tree = {"a": [weights.T, 2.5, None], "b": (weights[:, 0], "word", True)}
    data = pack(tree)
    length, _ = HEAD.unpack(data[: HEAD.size])
    back = unpack(data[HEAD.size :][:length], data[HEAD.size :][length:])
    assert torch.equal(back["a"][0], weights.T) and torch.equal(back["b"][0], weights[:, 0])
    assert back["a"][1:] == [2.5, None] and back["b"][1:] == ("word", True)
    assert not back["a"][0].requires_grad


def test_a_dtype_that_cannot_be_sent_is_named():
    with pytest.raises(TypeError, match="torch.complex128 cannot be sent"):
        pack(torch.zeros(2, dtype=torch.complex128))


@pytest.mark.parametrize(("value", "places"), [(1.0, []), (float("nan"), []), (2.0, ["0"])])
def test_an_argument_that_is_written_to_is_named_and_not_a_number_is_no_change(value, places):
    def function(x):
        if value == 2.0:
            x.add_(1)
        return x * 1

    question = {"function": "f", "args": (torch.tensor([value, 1.0]),), "static": ()}
    reply = answer({"f": function}, {**question, "transforms": (), "extra": ()})
    assert list(reply["changed"]) == places
