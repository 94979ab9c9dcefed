"""Files are whole or not there, and reading one never runs code."""

import json
import pickle

import pytest
import torch

from nested.support.files import (
    load_checkpoint,
    prepare_folder,
    save_checkpoint,
    save_json,
    write_whole,
)

CONTENT = {"weights": torch.arange(4.0), "history": [(1, 0.5)], "nested": {"name": "x"}}


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    save_checkpoint(tmp_path / "a.pt", CONTENT)
    back = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(back.pop("weights"), CONTENT["weights"])
    assert back == {key: CONTENT[key] for key in ("history", "nested")}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_writer_that_dies_leaves_the_old_file(tmp_path):
    save_checkpoint(tmp_path / "a.pt", CONTENT)

    def die(temporary):
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.pt", die)
    assert load_checkpoint(tmp_path / "a.pt")["nested"] == {"name": "x"}


@pytest.mark.parametrize("content", [b".", b"PK\x03\x04", b"\x80\x02K.", b"}q."])
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read|does not hold"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_place_that_cannot_be_written_is_a_value_error(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    for path in (tmp_path / "missing" / "a.pt", tmp_path / "folder.pt", "/proc/a.pt"):
        with pytest.raises(ValueError, match="cannot write"):
            save_checkpoint(path, CONTENT)


@pytest.mark.parametrize("keep", [0, 1, 100, 700, -1])
def test_a_truncated_checkpoint_is_refused_in_one_sentence(tmp_path, keep):
    save_checkpoint(tmp_path / "a.pt", CONTENT)
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match="cannot be read: it is truncated"):
        load_checkpoint(tmp_path / "a.pt")


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('code from a file has run')",)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_code_in_a_file_is_not_run(tmp_path, save):
    save({"rule": Malicious()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "a.pt")


def test_no_file_and_no_dict_have_their_own_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        load_checkpoint(tmp_path / "a.pt")
    torch.save([1], tmp_path / "a.pt")
    with pytest.raises(ValueError, match="does not hold a dict"):
        load_checkpoint(tmp_path / "a.pt")


def test_json_has_null_for_what_json_cannot_say(tmp_path):
    save_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.5, None], "c": None}


def test_a_folder_is_made_and_tried(tmp_path):
    assert prepare_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write in the folder"):
        prepare_folder(tmp_path / "file")
    with pytest.raises(ValueError, match="cannot write in the folder"):
        prepare_folder("/proc/nested")
