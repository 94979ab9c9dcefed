"""The small things around: devices, the progress line, pictures."""

import io

import pytest
import torch

from nested.support.device import find_device
from nested.support.plots import draw_bars, draw_curves, draw_signal, new_figure, save_figure
from nested.support.progress import Progress


def test_cpu_is_always_there_and_auto_finds_something():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cuda", "mps", "cpu")


def test_a_device_that_is_unknown_or_absent_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="no device 'tpu'; choose one of auto, cpu"):
        find_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="has no cuda device that PyTorch can use; it has: .*cpu"):
        find_device("cuda")


def test_auto_prefers_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda")


def test_with_cuda_products_are_not_rounded_to_tensorfloat(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    find_device("cuda")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_ends_its_line_and_is_quiet_in_a_log():
    log, terminal = io.StringIO(), Terminal()
    for out in (log, terminal):
        progress = Progress(4, out)
        for step in range(1, 5):
            progress.show(step, f"loss {step}")
    assert log.getvalue() == f"[{'#' * 24}] 4/4  loss 4\n"
    assert terminal.getvalue().endswith("4/4  loss 4\n") and "\r" in terminal.getvalue()


def test_pictures_are_real_pngs(tmp_path):
    figure, ((left, middle, right),) = new_figure(1, 3)
    curve = torch.linspace(2, 0.1, 20), torch.full((20,), 0.05)
    draw_curves(left, {"a": curve, "b": curve}, highlight="a", dashed=["b"])
    draw_bars(middle, {"a": (1.0, 0.1), "b": (2.0, 0.1)}, highlight="b")
    draw_signal(right, torch.rand(5, 20) + 0.01, "learning rate", logarithmic=True)
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert len(left.lines) == 2 and len(middle.patches) == 2 and len(right.lines) == 4
