# %% [markdown]
# # 13. A language model that goes on learning: what does it remember? (45 s)
#
# Most language models stop learning when their training ends. What comes later has to fit into
# their context. HOPE has another place for it: its memories are small models inside the model, and
# reading trains them. We load a small model of bytes that was trained before. We tell it facts that
# no training could know, and ask for them.

# %%
import os

from torch import Generator

from nested.language import generate, load, memorise
from nested.language.recall import recall_at, recall_facts, share_recalled
from nested.memory import pick
from nested.models.movement import movement
from nested.support.files import prepare_folder
from nested.support.plots import new_figure, save_figure
from nested.tasks.facts import draw_facts, fillers, stated

RUNS, COUNT, SIZE = 5, 20, 2000  # texts, and facts and bytes of each
DISTANCES = (64, 1024, 16_384)  # bytes between a fact and its question
COUNTS = (10, 20, 35, 50, 100)  # facts of a text
SEED = 0
folder = prepare_folder(os.environ.get("NESTED_OUT", "runs"))
model, coder = load("nano")

# %% [markdown]
# **It writes** like the plays that it was trained on. Each byte is read before the next one is
# drawn, so the memories learn what the model itself has written, too.

# %%
text = generate(
    model, coder, "KING HENRY:\n", 200, temperature=0.7, generator=Generator().manual_seed(SEED)
)
print("KING HENRY:\n" + "".join(text))

# %% [markdown]
# **Facts.** A text of 2,000 bytes states twenty facts between other sentences, such as "The code of
# falcon is 4821." After it we ask for each fact: "The code of falcon is". The codes are drawn anew
# each time. We count the answers whose four digits are all right, in three ways:
#
# - *live*: the memories learn while the text is read;
# - *frozen*: the same weights read the same text, but their memories write nothing;
# - *nothing*: the model is asked before it has read anything.

# %%
WAYS, runs = ("live", "frozen", "nothing"), []
for i in range(RUNS):
    generator = Generator().manual_seed(SEED + i)
    runs.append(recall_facts(model, coder, COUNT, SIZE, generator, ways=WAYS))
print(f"\nshare of {COUNT} facts in {SIZE:,} bytes that are recalled")
for way in WAYS:
    shares = [run[way] for run in runs]
    print(f"  {way:8}{sum(shares) / RUNS:.2f}  ({min(shares):.2f} to {max(shares):.2f})")

# %% [markdown]
# **Which level holds them?** A model of several levels has several places for a fact. `memorise`
# reads a text and can write to chosen levels only. The others keep what they held before.

# %%
levels = list(movement(model, model.init(1), model.init(1)))
recall = [level for level in levels if "recall" in level]
others = [level for level in levels if level not in recall]
print("\nshare recalled, if only some levels write")
for name, chosen in {"the memory of n-grams": recall, "all other levels": others}.items():
    shares = []
    for i in range(RUNS):
        generator = Generator().manual_seed(SEED + i)
        facts = draw_facts(COUNT, generator)
        state = memorise(model, None, stated(facts, SIZE, generator), levels=chosen)
        shares.append(share_recalled(model, coder, pick(state, [0] * COUNT), facts))
    print(f"  {name:24}{sum(shares) / RUNS:.2f}  ({min(shares):.2f} to {max(shares):.2f})")

# %% [markdown]
# **Distance.** We state one fact, let the model read other sentences, and ask. Everything that it
# reads goes through the same memories. How long does the fact survive?

# %%
generator, recalled = Generator().manual_seed(SEED), {"live": [], "frozen": []}
for distance in DISTANCES:
    hay = fillers(8, distance, generator)
    shares = recall_at(model, coder, distance, hay, generator, ways=("live", "frozen"))
    for way in recalled:
        recalled[way].append(shares[way])
print("\nshare of 8 facts that are recalled, by the bytes read since")
for way, shares in recalled.items():
    numbers = "  ".join(f"{d}: {share:.2f}" for d, share in zip(DISTANCES, shares))
    print(f"  {way:8}{numbers}")

# %% [markdown]
# **Room.** Now a text states more and more facts. How many does one memory hold?

# %%
held = []
for count in COUNTS:
    shares = []
    for i in range(RUNS):
        generator = Generator().manual_seed(SEED + i)
        shares.append(
            recall_facts(model, coder, count, 60 * count, generator, ways=("live",))["live"]
        )
    held.append(sum(shares) / RUNS)
print("\nshare recalled, by the number of facts in a text")
print("  live    " + "  ".join(f"{count}: {share:.2f}" for count, share in zip(COUNTS, held)))

# %%
figure, ((left, right),) = new_figure(1, 2)
for way, style in (("live", "C0o-"), ("frozen", "C3s:")):
    left.plot(DISTANCES, recalled[way], style, label=f"memories {way}")
left.set(xscale="log", xlabel="bytes read since a fact was stated", ylabel="share recalled")
left.set_xticks(DISTANCES, [f"{d:,}" for d in DISTANCES])
left.minorticks_off()
left.legend()
right.plot(COUNTS, held, "C0o-")
right.set(xlabel="facts in a text", xticks=COUNTS)
for panel in (left, right):
    panel.set(ylim=(-0.05, 1.05))
figure.suptitle("Facts do not fade with what is read since, but there is room for a few dozen")
save_figure(figure, folder / "lesson_13.png")

# %% [markdown]
# **Answer.** It remembers twenty facts that it has read once, and with frozen memories none. One
# level holds them: the memory of n-grams, whose keys need no training. The other levels help to
# write, and hold no facts. Training made each write cost a little, so the memory learned to leave
# other text out, and facts stay. More facts than it has room for push each other out.
#
# **Exercise.** Ask in other words than those that stated the facts: change `ASKED` in
# `nested/tasks/facts.py` to "{} has the code". What is recalled now, and why?
