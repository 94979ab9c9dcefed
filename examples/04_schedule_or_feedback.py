"""Lesson 03. Learning to learn: schedule or feedback?

Ask. A net that sets the learning rate has been meta-trained, and beats the best constant. Has it
learned to *react* to each run, or only a schedule, the same for every run? How could one tell?

Show. Replay its own average schedule blindly, and see whether anything is lost. Run
`python examples/03_learning_to_learn.py`; the picture is runs/lesson_03.png.
"""

from pathlib import Path

from nested import MetaConfig, MetaOptimizer, RaceResult, meta_train, race
from nested.support.files import prepare_folder
from nested.support.plots import draw_curves, draw_signal, new_figure, save_figure
from nested.tasks import Digits

WORLDS = {"all images alike": (1.0, 1.0), "contrast from 1/3 to 3": (1 / 3, 3.0)}


def learn_and_race(contrast: tuple[float, float], meta_steps: int) -> RaceResult:
    """Meta-train two rules: one sees the run it is in, the other only what time it is."""
    family = Digits(contrast=contrast)
    rules = {"sees the run": MetaOptimizer(), "sees a clock": MetaOptimizer(context=("log_step",))}
    for rule in rules.values():
        meta_train(rule, family, MetaConfig(meta_steps=meta_steps, max_horizon=40))
    return race(rules, family, horizon=20, tasks=64, baselines={})


def main(folder: Path = Path("runs"), quick: bool = False) -> dict[str, float]:
    figure, panels = new_figure(2, 2)
    numbers = {}
    for (world, contrast), (left, right) in zip(WORLDS.items(), panels):
        result = learn_and_race(contrast, meta_steps=60 if quick else 100)
        gain = result.gain("sees the run", "sees the run, replayed")
        paired = result.paired("sees the run", "sees the run, replayed")
        numbers[f"gain, {world}"] = gain
        numbers[f"errors, {world}"] = paired.mean / paired.error
        numbers[f"over clock, {world}"] = result.gain("sees the run", "sees a clock")
        print(f"{world}: mean loss over 20 steps on held-out digits")
        for name in ("sees the run", "sees the run, replayed", "sees a clock"):
            mean, error = result.estimate(name)
            print(f"  {name:<24} {mean:.3f} +- {error:.3f}")
        print(f"  feedback is worth {gain:.1%} ({paired.mean / paired.error:.1f} standard errors)")
        shown = ("sees the run", "sees the run, replayed", "sees a clock")
        curves = {name: result.curve(name) for name in shown}
        draw_curves(left, curves, highlight="sees the run", dashed=shown[1:2])
        left.set_title(world, fontsize=9)
        signals = result.entries["sees the run"].signals
        draw_signal(right, signals["lr"], "learning rate", logarithmic=True)
        right.set_title("its learning rate, a line a task", fontsize=9)
    save_figure(figure, prepare_folder(folder) / "lesson_03.png")
    return numbers


# Answer. It depends on the world it learned in. Where all runs are alike, a schedule is nearly all
# there is to learn, and the replay loses little. Where runs differ, the rule learns to tell from
# its gradients which run it is in, and its average schedule fits none of them. Beating a constant
# proves neither.

if __name__ == "__main__":
    main()
