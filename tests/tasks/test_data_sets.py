"""Data sets: shipped ones, and loaders on small files in their format."""

import gzip

import numpy as np
import pytest
import torch

from nested.continual import make_stream
from nested.tasks.data_sets import DATA, FROM_FILES, all_glyphs, load_data


@pytest.mark.parametrize("name", ["digits", "glyphs", "drift", "texts"])
def test_shipped_data_load_and_make_every_stream(name):
    data = load_data(name)
    assert len(data.y) > 500 and len(data.held_y) > 100 and data.x.isfinite().all()
    for kind in ("class", "domain", "task"):
        stream = make_stream(data, kind, 2, blur=0.0, ood=0.1)
        assert len(stream) == 2 and len(list(stream)) > 2
    if data.categories is not None:
        assert len(make_stream(data, "mixed", 2)) == 2


def test_glyphs_of_each_font_are_a_domain():
    data = load_data("glyphs")
    stream = make_stream(data, "domain", 9)
    for number, task in enumerate(stream.tasks):
        assert data.domains[task.rows].unique().tolist() == [number]


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture
def fashion(tmp_path):
    tmp_path = tmp_path / "fashion-mnist"
    tmp_path.mkdir()
    images = np.arange(40 * 28 * 28).reshape(40, 28, 28) % 256
    for side in ("train", "t10k"):
        write_idx(tmp_path / f"{side}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{side}-labels-idx1-ubyte.gz", np.arange(40) % 10)
    return tmp_path


def test_fashion_mnist_is_read_from_idx_files(fashion):
    data = load_data("fashion", str(fashion))
    assert data.x.shape == (40, 28, 28) and data.y.tolist() == [i % 10 for i in range(40)]
    assert data.x[0, 0, 5].item() == pytest.approx(5 / 255) and data.names[9] == "boot"
    assert data.categories is not None


def test_mnist_has_the_same_files_and_no_clothes(tmp_path):
    for side in ("train", "t10k"):
        write_idx(tmp_path / f"{side}-images-idx3-ubyte.gz", np.zeros((20, 28, 28)))
        write_idx(tmp_path / f"{side}-labels-idx1-ubyte.gz", np.arange(20) % 10)
    data = load_data("fashion", str(tmp_path))
    assert data.names == tuple("0123456789") and data.categories is None


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x01\0\0\0\x09abc", b"no images here at all"])
def test_a_broken_idx_file_is_refused(fashion, content):
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="is no IDX file of bytes, or it is cut short"):
        load_data("fashion", str(fashion))
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot read|cut short"):
        load_data("fashion", str(fashion))
    (fashion / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="there is no train-images-idx3-ubyte"):
        load_data("fashion", str(fashion))


def write_images(root, names=("cat", "dog"), count=3):
    image = pytest.importorskip("PIL.Image")
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((40, 50, 3), 40 * number, dtype=np.uint8)
            image.fromarray(pixels).save(root / name / f"{number}.png")


def test_a_folder_of_images_has_a_class_for_each_subfolder(tmp_path):
    write_images(tmp_path)
    data = load_data("folder", str(tmp_path))
    assert data.names == ("cat", "dog") and data.x.shape == (4, 3, 32, 32)
    assert data.held_x.shape == (2, 3, 32, 32)


def test_a_folder_can_hold_train_and_val(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", count=1)
    data = load_data("folder", str(tmp_path))
    assert len(data.y) == 6 and len(data.held_y) == 2


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no image in"):
        load_data("folder", str(tmp_path))
    with pytest.raises(ValueError, match="there is no folder of images at None"):
        load_data("folder")
    write_images(tmp_path)
    (tmp_path / "cat" / ".DS_Store").write_text("hidden")
    (tmp_path / ".cache").mkdir()
    assert load_data("folder", str(tmp_path)).names == ("cat", "dog")
    (tmp_path / "eel").mkdir()
    with pytest.raises(ValueError, match="the class 'eel' in .* has no image: add some, or delete"):
        load_data("folder", str(tmp_path))
    (tmp_path / "eel").rmdir()
    (tmp_path / "cat" / "note.txt").write_text("no image")
    with pytest.raises(ValueError, match="note.txt' is no image that can be read"):
        load_data("folder", str(tmp_path))


def test_cifar_100_is_read_in_the_format_of_the_hub(tmp_path):
    library = pytest.importorskip("datasets", reason="pip install -e .[datasets]")
    image = pytest.importorskip("PIL.Image")
    features = library.Features(
        {
            "img": library.Image(),
            "fine_label": library.ClassLabel(num_classes=4),
            "coarse_label": library.ClassLabel(num_classes=2),
        }
    )
    for side, count in (("train", 12), ("test", 4)):
        rows = {
            "img": [image.fromarray(np.full((32, 32, 3), i, dtype=np.uint8)) for i in range(count)],
            "fine_label": [i % 4 for i in range(count)],
            "coarse_label": [i % 4 // 2 for i in range(count)],
        }
        made = library.Dataset.from_dict(rows, features=features)
        (tmp_path / "data").mkdir(exist_ok=True)
        made.to_parquet(tmp_path / "data" / f"{side}-00000-of-00001.parquet")
    data = load_data("cifar100", str(tmp_path))
    assert data.x.shape == (12, 3, 32, 32) and data.categories == (0, 0, 1, 1)
    assert data.x[5].unique().tolist() == pytest.approx([5 / 255])
    assert len(make_stream(data, "mixed", 2)) == 2
    with pytest.raises(ValueError, match="cannot load the data set"):
        load_data("cifar100", str(tmp_path / "none"))


def test_texts_by_author_come_from_a_folder(tmp_path):
    for name, line in (("anna", "The ship sails at noon. "), ("bob", "0 1 1 2 3 5 8 13 21 34 ")):
        (tmp_path / f"{name}.txt").write_text(line * 100)
    data = load_data("texts", str(tmp_path))
    assert data.names == ("anna.txt", "bob.txt") and data.x.shape[1:] == (512,)
    (tmp_path / "eve.txt").write_text("short")
    with pytest.raises(
        ValueError, match="the text of 'eve.txt' is too short: give 400 bytes or more"
    ):
        load_data("texts", str(tmp_path))
    (tmp_path / "eve.txt").unlink()
    (tmp_path / ".git").mkdir()
    assert load_data("texts", str(tmp_path)).names == ("anna.txt", "bob.txt")
    with pytest.raises(ValueError, match="there is no text in .* give one for each author"):
        load_data("texts", str(tmp_path / ".git"))
    with pytest.raises(ValueError, match="there is no folder at"):
        load_data("texts", str(tmp_path / "none"))


def test_held_out_texts_share_no_document_with_the_others(tmp_path):
    for name in ("anna", "bob"):
        (tmp_path / name).mkdir()
        for number in range(10):
            text = f"{name} {number} "
            (tmp_path / name / f"{number}.txt").write_text(text * (600 // len(text) + 1))
    data = load_data("texts", str(tmp_path))
    assert len(data.held_y) == 2 * 2 * 3 and len(data.y) == 2 * 8 * 3
    apart = torch.cdist(data.x, data.held_x)
    assert apart.min() > 0.1  # pieces of one document are nearly the same


def test_glyphs_are_those_that_taught_no_rule():
    data, every = load_data("glyphs"), all_glyphs()
    assert data.names == every.names[1::2] and data.categories == every.categories[1::2]
    assert data.x[data.y == 3].equal(every.x[every.y == 7])
    assert data.held_domains[data.held_y == 3].equal(every.held_domains[every.held_y == 7])


def test_unknown_data_and_paths_that_nobody_reads_are_refused():
    with pytest.raises(ValueError, match="data are one of digits, glyphs, fashion, cifar100"):
        load_data("mnist")
    for name in DATA.keys() - set(FROM_FILES):
        with pytest.raises(ValueError, match=f"{name} come with the package, so they take no"):
            load_data(name, "here")


def test_two_seeds_hold_out_other_digits():
    first, second = load_data("digits", seed=0), load_data("digits", seed=1)
    assert not torch.equal(first.held_x, second.held_x)
