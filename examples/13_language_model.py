# %% [markdown]
# # 13. A language model that goes on learning: what does it remember? (60 s)
#
# Most language models stop learning when their training ends. What comes later has to fit into
# their context. HOPE has another place for it: its memories are small models inside the model, and
# reading trains them. We load a small model of bytes that was trained before, tell it facts that no
# training could know, and ask for them.

# %%
import math
import os

import torch
from torch import Generator
from torch.nn.functional import cross_entropy

from nested.language import generate, load, prepare
from nested.language.measures import even_pieces
from nested.language.recall import recall_at, recall_facts
from nested.support.files import prepare_folder
from nested.support.plots import new_figure, save_figure
from nested.tasks.facts import fillers

RUNS = 5  # texts of facts
DISTANCES = (64, 256, 1024, 4096)  # bytes between a fact and its question
PIECES, EDGES = 8, (0, 64, 256, 1024, 2048, 4096, 8192)  # of held-out plays
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
runs = [
    recall_facts(model, coder, 20, 2000, Generator().manual_seed(SEED + i)) for i in range(RUNS)
]
print("\nshare of 20 facts in 2,000 bytes that are recalled")
for way in ("live", "frozen", "nothing"):
    shares = [run[way] for run in runs]
    mean, low, high = sum(shares) / RUNS, min(shares), max(shares)
    print(f"  {way:8}{mean:.2f}  ({low:.2f} to {high:.2f} in {RUNS} texts)")

# %% [markdown]
# **Distance.** We state one fact, let the model read other sentences, and ask. Everything that it
# reads is written into the same memories. How long does the fact survive?

# %%
generator, recalled = Generator().manual_seed(SEED), {"live": [], "frozen": []}
for distance in DISTANCES:
    hay = fillers(32, distance, generator)
    shares = recall_at(model, coder, distance, hay, generator)
    for way in recalled:
        recalled[way].append(shares[way])
print("\nshare of 32 facts that are recalled, by the bytes read since")
for way, shares in recalled.items():
    numbers = "  ".join(f"{d}: {share:.2f}" for d, share in zip(DISTANCES, shares))
    print(f"  {way:8}{numbers}")

# %% [markdown]
# **A whole play.** Training read windows of 256 bytes, and carried the memories on from one to the
# next. Now the model reads 8,192 bytes of plays that it never saw. We score each byte before it is
# read, by its position in the text.


# %%
@torch.no_grad()
def bits_of(pieces, frozen):
    """The bits of each next byte, (B, T), with memories that write or do not."""
    bits, state = [], None
    for tokens in pieces.unfold(1, 513, 512).unbind(1):
        write = torch.zeros_like(tokens[:, 1:], dtype=torch.bool) if frozen else None
        logits, state = model(tokens[:, :-1], state, write=write)
        bits.append(cross_entropy(logits.mT, tokens[:, 1:], reduction="none") / math.log(2))
    return torch.cat(bits, dim=1)


plays = prepare(["shakespeare"], folder / "plays", show=lambda line: None).held_out
pieces = even_pieces(plays, PIECES, EDGES[-1])
spans, by_position = list(zip(EDGES, EDGES[1:])), {}
for way in ("live", "frozen"):
    bits = bits_of(pieces, frozen=way == "frozen")
    by_position[way] = [bits[:, a:b].mean().item() for a, b in spans]
print("\nbits a byte at positions in a text")
print(" " * 10 + "".join(f"{f'{a} to {b}':>14}" for a, b in spans))
for way, row in by_position.items():
    print(f"  {way:8}" + "".join(f"{x:14.2f}" for x in row))

# %%
figure, ((left, right),) = new_figure(1, 2)
for way, style in (("live", "C0o-"), ("frozen", "C3s:")):
    left.plot(DISTANCES, recalled[way], style, label=f"memories {way}")
    right.plot([b for _, b in spans], by_position[way], style)
for panel, ticks in ((left, DISTANCES), (right, [b for _, b in spans])):
    panel.set(xscale="log")
    panel.set_xticks(ticks, ticks)
    panel.minorticks_off()
left.set(xlabel="bytes since a fact was stated", ylabel="share recalled", ylim=(-0.05, 1.05))
right.set(xlabel="position in a held-out play, up to", ylabel="bits a byte")
left.legend()
figure.suptitle("A memory that learns while it reads holds what frozen weights cannot know")
save_figure(figure, folder / "lesson_13.png")
