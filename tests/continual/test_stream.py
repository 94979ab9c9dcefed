"""Streams: each example once, nothing held out in training, and the ratios that were asked for."""

import numpy as np
import pytest
import torch

from nested.continual import Strategy, labelled, make_stream, run
from nested.continual.composition import composition
from nested.continual.nets import build_net
from nested.continual.stream import KINDS
from nested.tasks.domains import change_domain
from nested.tasks.labelled import split_again
from tests.problems import generator


def numbered(count=1000, classes=10, **more):
    """Data whose first feature is the number of the example."""
    x = torch.rand(count, 3, 3, generator=generator())
    x[:, 0, 0] = torch.arange(count) + 1.0
    return labelled(x, torch.arange(count) % classes, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_each_example_comes_once_and_none_of_those_held_out(kind):
    categories = [label % 3 for label in range(10)]
    data = numbered(categories=categories)
    more = {} if kind == "task" else {"blur": 0.1, "interference": 0.1}
    stream = make_stream(data, kind, 5, ood=0.1, **more, seed=3)
    rows = torch.cat([task.rows for task in stream.tasks])
    assert rows.sort().values.equal(torch.arange(len(data.y)))
    if kind != "domain":
        learned = {float(v) for x, _, _ in stream for v in x.flatten(1).max(1).values}
        held = {float(x.max()) for task in range(5) for x in stream.held_out(task)[0]}
        assert not learned & held and len(learned) == 800 and len(held) == 200


def test_iterating_twice_gives_the_same_batches():
    stream = make_stream(numbered(), tasks=5, ood=0.2, batch_size=7)
    first, second = list(stream), list(stream)
    assert all(a[0].equal(b[0]) and a[1].equal(b[1]) for a, b in zip(first, second, strict=True))
    assert [task for *_, task in first] == sorted(task for *_, task in first)
    other = make_stream(numbered(), tasks=5, ood=0.2, batch_size=7, seed=1)
    assert not all(a[0].equal(b[0]) for a, b in zip(first, other))


def test_epochs_mix_the_same_examples():
    stream = make_stream(numbered(), tasks=5)
    orders = [torch.cat([x for x, _ in stream.batches(1, epoch)])[:, 0, 0] for epoch in (0, 1, 2)]
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert all(order.sort().values.equal(orders[0].sort().values) for order in orders)


@pytest.mark.parametrize("blur, interference, ood", [(0.1, 0.05, 0.05), (0.3, 0, 0), (0, 0.2, 0.1)])
def test_measured_ratios_are_those_asked_for(blur, interference, ood):
    stream = make_stream(numbered(5000), tasks=5, blur=blur, interference=interference, ood=ood)
    for number, task in enumerate(stream.tasks):
        shares = task.origins.bincount(minlength=4) / len(task.origins)
        assert shares[1].item() == pytest.approx(blur if number < 4 else 0, abs=0.004)
        assert shares[2].item() == pytest.approx(interference if number else 0, abs=0.004)
        assert shares[3].item() == pytest.approx(ood, abs=0.004)


def test_a_composition_uses_all_examples():
    counts = torch.tensor(composition(torch.tensor([100, 50, 75]), 0.2, 0.1))
    assert counts.sum(0).tolist() == [100, 50, 75] and (counts >= 0).all()
    assert composition(torch.tensor([4, 5]), 0.0, 0.0) == [[4, 0], [0, 5]]


def test_what_leaks_in_comes_from_the_next_task_and_what_returns_from_earlier_ones():
    data = numbered()
    stream = make_stream(data, tasks=5, blur=0.2, interference=0.2)
    for number, task in enumerate(stream.tasks):
        for name, others in ((1, {number + 1}), (2, set(range(number)))):
            labels = task.y[task.origins == name].tolist()
            allowed = {int(c) for t in others if t < 5 for c in stream.tasks[t].labels}
            assert set(labels) <= allowed


def test_out_of_distribution_examples_keep_their_pixels_and_get_a_label_of_the_task():
    data = numbered()
    stream = make_stream(data, tasks=5, ood=0.3)
    for task in stream.tasks:
        outside = task.origins == 3
        before = data.x[task.rows[outside]].flatten(1).sort().values
        assert task.x[outside].flatten(1).sort().values.equal(before)
        assert set(task.y[outside].tolist()) <= set(task.labels.tolist())
        assert outside[: len(outside) // 2].double().mean() < 0.4  # they come at any time


def test_classes_of_one_category_are_spread_over_tasks():
    categories = [label // 5 for label in range(10)]  # two of five classes
    stream = make_stream(numbered(categories=categories), "mixed", 5)
    for task in stream.tasks:
        assert sorted(categories[label] for label in task.labels.tolist()) == [0, 1]


def test_domains_are_turned_images_or_features_in_another_order():
    image = torch.zeros(1, 5, 5)
    image[0, 0, 2] = 1.0  # above the centre
    quarter = change_domain(image, 1, 2)  # by 144 degrees
    assert change_domain(image, 0, 2) is image and quarter[0, :2].sum() < 0.01
    assert quarter.sum() > 0.5
    x = torch.arange(12.0).view(2, 6)
    turned = change_domain(x, 3, 5)
    assert not turned.equal(x) and turned.sort().values.equal(x)
    assert turned.equal(change_domain(x, 3, 5))


def test_domains_of_the_data_keep_their_order():
    domains = torch.arange(1000) % 7
    data = numbered(domains=domains)
    stream = make_stream(data, "domain", 3)
    latest = -1
    for number, task in enumerate(stream.tasks):
        here = data.domains[task.rows].unique().tolist()
        assert min(here) > latest
        latest = max(here)
        mine = torch.isin(data.held_domains, torch.tensor(here))
        assert stream.held_out(number)[1].equal(data.held_y[mine])


def test_examples_of_numpy_train_a_net():
    import numpy as np

    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 4
    stream = make_stream((x, y), "class", 2)
    assert run(Strategy(build_net(stream.shape, 4)), stream).matrix.isfinite().all()


def test_labels_can_be_any_whole_numbers():
    data = labelled(torch.rand(20, 2), [7, 100] * 10)
    assert data.names == ("7", "100") and data.y.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tasks": 11}, "10 classes cannot be split into 11 tasks"),
        ({"kind": "order"}, "a stream is of kind class, domain, task, mixed, but got 'order'"),
        ({"blur": 1.0}, "blur is a share from 0 to below 1"),
        ({"ood": "0.1"}, "ood is a share"),
        ({"blur": 0.5, "interference": 0.4, "ood": 0.2}, "add up to less than 1"),
        ({"blur": 0.6}, "leave a task without examples"),
        ({"kind": "task", "blur": 0.1}, "no other task can leak in"),
        ({"kind": "mixed"}, "needs categories"),
        ({"batch_size": 0}, "batch_size is a whole number from 1"),
        ({"seed": -1}, "a seed is"),
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_stream(numbered(), **{"tasks": 5, **change})


def test_more_domains_than_there_are_are_refused():
    data = numbered(domains=torch.arange(1000) % 3)
    with pytest.raises(ValueError, match="3 domains cannot be split into 4 tasks"):
        make_stream(data, "domain", 4)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (torch.rand(4, 2), [0, 0, 1], "4 examples, but labels"),
        (torch.full((4, 2), torch.nan), [0, 0, 1, 1], "4 of 4 have NaN"),
        (torch.rand(4, 2), [0.5, 0, 1, 1], "labels are whole numbers"),
        (torch.rand(4, 2), ["a", "b", "a", "b"], "labels are whole numbers"),
        (torch.rand(4, 2), [0, 0, 0, 1], "class 1 has one example"),
        (torch.rand(4, 2), [0, 0, float("nan"), 1], "labels are whole numbers: no words, no frac"),
        (torch.rand(0, 2), [], "at least one"),
        (torch.rand(4), [0, 0, 1, 1], "examples are real numbers"),
        (torch.rand(4, 0), [0, 0, 1, 1], "examples are real numbers"),
        (torch.rand(4, 2) * 1j, [0, 0, 1, 1], "examples are real numbers"),
        (None, [0, 0, 1, 1], "examples are numbers in arrays of one shape"),
        ([[1.0], [2.0, 3.0]], [0, 1], "examples are numbers in arrays of one shape"),
    ],
)
def test_data_that_make_no_sense_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        labelled(x, y)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"domains": [0, 0.5, 0, 1]}, "domains are whole numbers"),
        ({"held_out": (torch.rand(2, 2),)}, r"held_out is \(x, y\), or \(x, y, domains\)"),
        (
            {"domains": [0, 0, 1, 1], "held_out": (torch.rand(2, 2), [0, 1], [0, 7])},
            "domain 7 is held out, and has no example to learn from",
        ),
        ({"domains": [0, 1]}, "there are 4 examples, but domains"),
        ({"categories": ["even", "odd"]}, "categories are whole numbers"),
        ({"categories": [1]}, "there are 2 classes, but categories"),
        ({"names": ["one"]}, "there are 2 classes, but 1 names"),
    ],
)
def test_domains_categories_and_names_that_make_no_sense_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        labelled(torch.rand(4, 2), [0, 0, 1, 1], **more)


def test_domains_of_held_out_data():
    x, y, domains = torch.rand(8, 2), [0, 1] * 4, [0, 0, 1, 1, 2, 2, 3, 3]
    for names in (domains, [10**12 * d - 5 for d in domains]):  # any whole numbers
        data = labelled(x, y, (x + 1, y, names), domains=names)
        stream = make_stream(data, "domain", 4)
        for number in range(4):
            assert stream.held_out(number)[0].equal(x[2 * number : 2 * number + 2] + 1)
    for held_out, more in (((x, y), {"domains": domains}), ((x, y, domains), {})):
        with pytest.raises(ValueError, match="held_out is"):
            labelled(x, y, held_out, **more)
    data = labelled(x, y, (x + 1, y, [0] * 8), domains=domains)
    with pytest.raises(ValueError, match="task 1 has no held-out example"):
        make_stream(data, "domain", 4)


@pytest.mark.parametrize("data", [None, "digits", torch.rand(4, 2)])
def test_other_things_than_data_are_refused(data):
    with pytest.raises(ValueError, match=r"data are \(x, y\), or come from labelled, but got"):
        make_stream(data)


def test_ratios_of_numpy_are_taken_and_strange_shapes_are_refused():
    assert len(make_stream(numbered(), tasks=5, blur=np.float64(0.1))) == 5
    data = labelled(torch.rand(20, 2, 3, 4, 5), [0, 1] * 10)
    with pytest.raises(ValueError, match="domains are made of features or images"):
        make_stream(data, "domain", 2)


def test_data_to_tune_on_hold_out_what_is_learned_later():
    x, y = torch.arange(400.0).view(200, 2), torch.arange(200) % 4
    data = labelled(x, y, domains=torch.arange(200) % 3, categories=(0, 0, 1, 1))
    again = split_again(data, 7)
    assert set(again.held_x[:, 0].tolist()) | set(again.x[:, 0].tolist()) == set(
        data.x[:, 0].tolist()
    )
    assert len(again.held_y) == 32 and again.categories == data.categories
    wanted = (again.held_x[:, 0] / 2).long()
    assert again.held_y.equal(wanted % 4) and again.held_domains.equal(wanted % 3)


def test_held_out_data_need_every_class():
    x, y = torch.rand(6, 2), [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="class 2 has no example held out"):
        labelled(x, y, (torch.rand(2, 2), [0, 1]))
    with pytest.raises(ValueError, match="one shape"):
        labelled(x, y, (torch.rand(3, 3), [0, 1, 2]))


def test_the_largest_seed_works():
    stream = make_stream(numbered(), tasks=5, seed=2**63 - 1)
    assert len(list(stream.batches(4, epoch=1))) == 16


def test_tasks_are_numbered_from_0():
    stream = make_stream(numbered(), tasks=5)
    for wrong in (5, -1, 1.0):
        with pytest.raises(ValueError, match="tasks are 0 to 4"):
            stream.held_out(wrong)


def test_a_description_has_a_line_for_each_task():
    lines = make_stream(numbered(), tasks=5, blur=0.1).describe().splitlines()
    assert len(lines) == 6 and "to come" in lines[0] and "0.10" in lines[1]
