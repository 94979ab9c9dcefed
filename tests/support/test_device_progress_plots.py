"""The small things around: devices, progress, pictures."""

import io
import time

import pytest
import torch

from nested.support.device import find_device, peak_memory
from nested.support.plots import (
    draw_bars,
    draw_curves,
    draw_signal,
    draw_trend,
    legend_below,
    new_figure,
    plain_log_scale,
    save_figure,
    split_panel,
)
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


def lines_of(steps):
    log = io.StringIO()
    with Progress(steps, log) as progress:
        for step in range(1, steps + 1):
            time.sleep(0.01)
            progress.show(step, f"loss {step}")
    return log.getvalue().splitlines()


def test_in_a_log_progress_is_a_rare_line_with_the_time_left(monkeypatch):
    assert lines_of(4) == ["4/4  loss 4"], "ten seconds have not passed"
    monkeypatch.setattr("nested.support.progress.SECONDS_BETWEEN_LINES", 0.0)
    first, *middle, last = lines_of(4)
    assert first == "1/4  loss 1" and last == "4/4  loss 4"
    assert [line.split("  ")[0] for line in middle] == ["2/4, 0:01 left", "3/4, 0:01 left"]


def test_on_a_terminal_progress_is_a_bar_with_the_time_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with Progress(4, terminal) as progress:
        for step in range(1, 4):
            time.sleep(0.01)
            progress.show(step, f"loss {step} [not a style]")
    text = terminal.getvalue()
    assert "3/4" in text and "00:01" in text and "loss 3 [not a style]" in text
    assert text.endswith("\n\x1b[?25h"), "the cursor is shown again, on a line of its own"


def test_an_error_ends_the_bar_too(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(4, terminal):
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith("\x1b[?25h")


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with Progress(1, terminal) as progress:
        progress.show(1, "done")
    assert terminal.getvalue() == "1/1  done\n"


def test_pictures_are_real_pngs(tmp_path):
    figure, ((left, middle, right),) = new_figure(1, 3)
    curve = torch.linspace(2, 0.1, 20), torch.full((20,), 0.05)
    draw_curves(left, {"a": curve, "b": curve}, highlight="a", dashed=["b"])
    draw_bars(middle, {"a": (1.0, 0.1), "b": (2.0, 0.1)}, highlight="b")
    draw_signal(right, torch.rand(5, 20) + 0.01, "learning rate", logarithmic=True)
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert len(middle.patches) == 2 and len(right.lines) == 4


def test_the_loss_on_fresh_examples_is_a_marker_and_not_the_end_of_the_curve():
    figure, ((axes,),) = new_figure(1, 1)
    mean = torch.tensor([3.0, 2.0, 1.0, 9.0])
    draw_curves(axes, {"a": (mean, torch.zeros(4))}, highlight="a")
    curve, marker = axes.lines[:2]
    assert list(curve.get_ydata()) == [3, 2, 1] and curve.get_marker() == "None"
    assert list(marker.get_xydata()[0]) == [3, 9] and marker.get_marker() == "D"


def test_ticks_of_steps_are_whole_numbers_and_legends_can_be_read():
    figure, ((left, right),) = new_figure(1, 2)
    draw_curves(left, {"a": (torch.tensor([2.0, 1.0, 1.0]), torch.zeros(3))}, highlight="a")
    draw_trend(right, [1, 2, 3], [3.0, 2.0, 2.5], "loss")
    plain_log_scale(right)
    legend_below(right)
    for axes in (left, right):
        assert all(tick == round(tick) for tick in axes.get_xticks())
        assert all(text.get_fontsize() >= 9 for text in axes.get_legend().get_texts())


def test_a_trend_is_the_mean_of_neighbours_over_a_faint_cloud():
    figure, ((axes,),) = new_figure(1, 1)
    values = [float(i % 2) for i in range(32)]
    draw_trend(axes, range(32), values, "noise")
    line, cloud = axes.lines
    assert max(line.get_ydata()[2:-2]) < 0.7 and min(line.get_ydata()[2:-2]) > 0.3
    assert list(cloud.get_ydata()) == values and cloud.get_alpha() < 0.5


def test_a_panel_is_split_in_two():
    figure, ((left, right),) = new_figure(1, 2)
    upper, lower = split_panel(right)
    assert figure.axes == [left, upper, lower]


def test_the_most_memory_used_is_told_and_0_where_the_system_does_not(monkeypatch):
    before = peak_memory(torch.device("cpu"))
    torch.ones(64 << 18).sum()  # 64 MiB
    assert 50 < before <= peak_memory(torch.device("cpu")) < 100_000
    monkeypatch.setattr("nested.support.device.resource", None)
    assert peak_memory(torch.device("cpu")) == 0
