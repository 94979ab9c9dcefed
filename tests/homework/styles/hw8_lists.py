"""A right answer to hw8 that keeps a list of each class, and stacks them after each batch."""

import torch

from nested.continual.replay import Replay
from nested.continual.reservoir import Reservoir


class BalancedReservoir(Reservoir):
    def __init__(self, size):
        super().__init__(size)
        self.lists, self.counts, self.full = {}, {}, set()

    def __len__(self):
        return sum(map(len, self.lists.values()))

    def add(self, generator, *parts):
        for example in zip(*(part.detach().clone() for part in parts)) if self.size else ():
            self.seen += 1
            self.take_in(int(example[1]), example, generator)
        examples = [example for label in sorted(self.lists) for example in self.lists[label]]
        self._slots = [torch.stack(column) for column in zip(*examples)]

    def take_in(self, label, example, generator):
        self.counts[label] = self.counts.get(label, 0) + 1
        own = self.lists.setdefault(label, [])
        if len(self) < self.size:
            return own.append(example)
        most = max(map(len, self.lists.values()))
        largest = [other for other in self.lists if len(self.lists[other]) == most]
        self.full.update(largest)
        if label not in self.full:
            place = int(torch.randint(most * len(largest), (), generator=generator))
            self.lists[largest[place // most]].pop(place % most)
            own.append(example)
        else:
            place = int(torch.randint(self.counts[label], (), generator=generator))
            if place < len(own):
                own[place] = example

    def state_dict(self):
        return {**super().state_dict(), "counts": self.counts, "full": self.full}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.lists, self.counts, self.full = {}, state["counts"], state["full"]
        for example in zip(*self._slots):
            self.lists.setdefault(int(example[1]), []).append(example)


class BalancedReplay(Replay):
    def new_memory(self, size):
        return BalancedReservoir(size)
