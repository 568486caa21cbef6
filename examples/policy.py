"""A policy with memory, trained on sequences in which episodes end and begin anywhere.

Many corridors at a time, of lengths that differ. At the entrance a sign says left or right; at the
junction at the end, where no sign is to be seen any more, the turn has to be the one it said. An
LSTM learns that by actor and critic (Mnih et al. 2016, advantages of Schulman et al. 2016). An
update reads a window of steps of all corridors in one call, with `reset` where an episode began;
beside it stands what is written without such resets, a loop of calls of one step each:

    python examples/policy.py [--steps 300 --hidden 128 --layers torch]
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastrnn
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

CORRIDORS, WINDOW = 32, 64
SHORTEST, LONGEST, PATIENCE = 3, 8, 24  # steps of a corridor; after so many an episode ends
DISCOUNT, TRACE, ENTROPY = 0.97, 0.95, 0.01
ACTIONS = ("on", "left", "right")
SIGHTS = ("sign left", "sign right", "corridor", "junction")
State = tuple[Tensor, Tensor]


class Corridors:
    """Independent corridors, each begun anew when its episode ends."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.generator = generator
        self.place, self.length, self.side, self.age = torch.zeros(4, count, dtype=torch.int64)
        self.begin(torch.ones(count, dtype=torch.bool))

    def begin(self, which: Tensor) -> None:
        count = len(which)
        length = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=self.generator)
        side = torch.randint(2, (count,), generator=self.generator)
        self.length = torch.where(which, length, self.length)
        self.side = torch.where(which, side, self.side)
        self.place, self.age = (each.masked_fill(which, 0) for each in (self.place, self.age))

    def see(self) -> Tensor:
        """``[B, 4]``: one of `SIGHTS` each; the sign from its own place only."""
        sight = torch.where(self.place == self.length, 3, 2)
        sight = torch.where(self.place == 0, self.side, sight)
        return nn.functional.one_hot(sight, len(SIGHTS)).float()

    def act(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards, and which episodes have ended: by a turn at the junction, or of old age."""
        turn, there = action > 0, self.place == self.length
        right = torch.where(action - 1 == self.side, 1.0, -1.0)
        in_vain = turn != there  # no turn at the junction, or one against a wall
        reward = torch.where(turn & there, right, torch.where(in_vain, -0.05, 0.0))
        self.place = self.place + (~turn & ~there)
        self.age = self.age + 1
        done = (turn & there) | (self.age >= PATIENCE)
        self.begin(done)
        return reward, done


class Policy(nn.Module):
    """An LSTM under an actor and a critic.

    ``way``: ``"reset"``, one call a window; ``"loop"``, one a step, which is all that torch's
    layers leave; ``"forgetful"``, with a reset before every step.
    """

    def __init__(self, hidden: int, way: str = "reset") -> None:
        super().__init__()
        self.way = way
        self.recurrent: nn.Module = fastrnn.LSTM(len(SIGHTS), hidden, forget_bias=1.0)
        self.head = nn.Linear(hidden, len(ACTIONS) + 1)

    def begin(self, batch: int) -> State:
        zeros = self.head.weight.new_zeros(1, batch, self.head.in_features)
        return zeros, zeros

    def forward(self, x: Tensor, hx: State, reset: Tensor) -> tuple[Tensor, Tensor, State]:
        """Log-probabilities ``[T, B, A]``, values ``[T, B]``, the state; reset is ``[T, B]``."""
        if self.way == "forgetful":
            reset = torch.ones_like(reset)
        if self.way == "loop" or not isinstance(self.recurrent, fastrnn.LSTM):
            outputs = []
            for step, ended in zip(x, reset, strict=True):
                keep = (~ended).to(x.dtype).unsqueeze(1)
                output, hx = self.recurrent(step.unsqueeze(0), (hx[0] * keep, hx[1] * keep))
                outputs.append(output)
            output = torch.cat(outputs)
        else:
            output, hx = self.recurrent(x, hx, reset=reset)
        scores = self.head(output)
        return scores[..., :-1].log_softmax(-1), scores[..., -1], hx


class Window(NamedTuple):
    """What was seen and done, ``[T, B]`` and more, and the state before."""

    sights: Tensor
    reset: Tensor
    hx: State
    actions: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass
class Player:
    """Plays on and on by a policy as it is at that time, a window a call."""

    policy: Policy

    def __post_init__(self) -> None:
        self.gains: list[float] = []  # the mean of the episodes that ended, by window
        self.clock: list[float] = []
        self.corridors: Corridors | None = None

    @torch.no_grad()
    def __call__(self, generator: torch.Generator) -> Window:
        self.clock.append(time.perf_counter())
        if self.corridors is None:
            self.corridors = Corridors(CORRIDORS, generator)
            self.hx = self.policy.begin(CORRIDORS)
            self.ended = torch.ones(CORRIDORS, dtype=torch.bool)
            self.gain = torch.zeros(CORRIDORS)
        device = self.hx[0].device
        first, steps, gains = self.hx, [], []
        for _ in range(WINDOW):
            sight, reset = self.corridors.see(), self.ended
            scores, value, self.hx = self.policy(
                sight[None].to(device), self.hx, reset[None].to(device)
            )
            # Not `multinomial`, so that what rounding moves is a threshold and not a stream.
            draw = torch.rand(CORRIDORS, 1, generator=generator)
            passed = draw > scores[0].exp().cumsum(1).cpu()
            action = passed.sum(1).clamp(max=len(ACTIONS) - 1)
            reward, self.ended = self.corridors.act(action)
            self.gain += reward
            gains += self.gain[self.ended].tolist()
            self.gain = self.gain.masked_fill(self.ended, 0)
            steps.append((sight, reset, action, value[0].cpu(), reward, self.ended))
        sights, reset, actions, values, rewards, ended = map(torch.stack, zip(*steps, strict=True))
        _, following, _ = self.policy(
            self.corridors.see()[None].to(device), self.hx, self.ended[None].to(device)
        )
        advantages = advantages_of(rewards, torch.cat([values, following.cpu()]), ended)
        self.gains.append(statistics.fmean(gains) if gains else 0.0)
        returns = advantages + values
        return Window(
            sights.to(device), reset.to(device), first, actions.to(device),
            advantages.to(device), returns.to(device),
        )  # fmt: skip


def advantages_of(rewards: Tensor, values: Tensor, ended: Tensor) -> Tensor:
    """Generalised advantages of ``[T, B]`` rewards under ``[T + 1, B]`` values."""
    found, advantage = [], torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        goes_on = (~ended[t]).float()
        surprise = rewards[t] + DISCOUNT * goes_on * values[t + 1] - values[t]
        advantage = surprise + DISCOUNT * TRACE * goes_on * advantage
        found.append(advantage)
    return torch.stack(found[::-1])


def loss(policy: Policy, window: Window) -> Tensor:
    """Of the actor, of the critic, and less for an undecided policy."""
    scores, values, _ = policy(window.sights, window.hx, window.reset)
    chosen = scores.gather(2, window.actions.unsqueeze(2)).squeeze(2)
    advantages = window.advantages
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-6)
    entropy = -(scores.exp() * scores).sum(2).mean()
    critic = (values - window.returns).square().mean()
    return critic / 2 - (chosen * advantages).mean() - ENTROPY * entropy


def speed_up(policy: Policy, window: Window, rounds: int = 15) -> float:
    """Time of forward and backward by the loop over that by one call, in turn."""
    way, times = policy.way, {"reset": [], "loop": []}  # type: ignore[var-annotated]
    for turn in range(rounds):
        for each in list(times)[:: 1 if turn % 2 else -1]:
            policy.way = each
            start = time.perf_counter()
            torch.autograd.grad(loss(policy, window), list(policy.parameters()))
            times[each].append(time.perf_counter() - start)
    policy.way = way
    return statistics.median(times["loop"][2:]) / statistics.median(times["reset"][2:])


WAYS = {"reset": "one call a window", "loop": "one call a step", "forgetful": "no memory"}


def run(options: Options) -> Result:
    result, players, rows = Result(), {}, []
    for way, name in WAYS.items():
        policy = build(options, lambda w=way: Policy(options.hidden, w))  # type: ignore[misc]
        player = players[way] = Player(policy)
        if way == "reset":
            by_chance = Player(build(options, lambda: Policy(options.hidden)))
            result.comparisons["LSTM, reset over torch's loop"] = compare(
                policy, by_chance, loss, options
            )
        fit(policy, player, loss, options, name, rate=1e-2, clip=0.5)
        result.losses[f"1 - return, {name}"] = [1 - gain for gain in player.gains]
    last = max(1, options.steps // 10)
    reached = {way: statistics.fmean(player.gains[-last:]) for way, player in players.items()}
    policy = players["reset"].policy
    window = players["reset"](torch.Generator().manual_seed(options.seed))
    ratio = speed_up(policy, window)
    for way, name in WAYS.items():
        seconds = players[way].clock[options.steps - 1] - players[way].clock[0]
        rows.append([name, f"{reached[way]:.3f}", f"{seconds:.1f}"])
    result.details.append(table(["", "return at the end", "seconds"], rows))
    result.metrics += [
        Metric("return, one call a window", reached["reset"], 0.9),
        Metric("return, one call a step", reached["loop"], 0.9),
        Metric("their difference", abs(reached["reset"] - reached["loop"]), 0.05, higher=False),
        Metric("return without memory (a guess: 0)", reached["forgetful"], 0.2, higher=False),
        Metric("an update by a loop over one by one call", ratio, 2.0),
    ]
    with picture(options, 1, 2) as axes:
        for way, name in WAYS.items():
            player, smooth = players[way], torch.tensor(players[way].gains[: options.steps])
            width = min(15, len(smooth))
            smooth = smooth.unfold(0, width, 1).mean(1)
            clock = torch.tensor(player.clock[: options.steps])
            axes[0, 0].plot(range(width, width + len(smooth)), smooth, label=name)
            axes[0, 1].plot((clock - clock[0])[width - 1 :], smooth, label=name)
        axes[0, 0].set(xlabel="updates", ylabel="return", ylim=(-1, 1.05))
        axes[0, 1].set(xlabel="seconds, playing included", ylim=(-1, 1.05))
        axes[0, 1].set_title(f"an update alone: {ratio:.1f} times as fast")
        axes[0, 0].legend()
    return result


if __name__ == "__main__":
    main(run, steps=300, hidden=128)
