"""Which pre-training, and which fine-tuning after it, adds most beside the strong recipe: tried on validation patients.

    python benchmarks/search.py run ../shared/data runs/search        # hours on 2 cores; can be stopped and resumed
    python benchmarks/search.py table                                 # what is done, into docs/results.md

Test patients are in none of it, not as unlabelled ones either. Each try is compared with a strong twin from scratch,
draw by draw: the same one, or with UniMatch, or of as many steps; the order of TRIES is that of their history, and
decision 032 says what was concluded. Shares its machinery with levers.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from levers import PLUS_MINUS, POSITION, Job, Pretext, Work, done, options, run
from levers_table import Scores, difference, fill, markdown, spread

RESULTS = Path(__file__).parent / "results" / "search.jsonl"
UNIMATCH = "UniMatch"
BEST = Pretext((*PLUS_MINUS, POSITION))
DRAWS = 4
ROUNDS = (("chaos", "1 patient"), ("hippocampus", "2 slices"), ("sunnybrook", "1 patient"))


@dataclass(frozen=True)
class Try:
    """A pre-training and what is different in the fine-tuning after it; `beside`: what it is compared with."""

    pretext: Pretext | None
    finetune: dict[str, Any] = field(default_factory=dict)
    beside: str = "scratch"


def longer(times: int, pretext: Pretext = BEST, **options: Any) -> Pretext:
    """The same, trained for longer, with other options."""
    return Pretext(pretext.tasks, {**pretext.options, "steps": 600 * times, **options})


AUTO = f"{POSITION},weight=auto"
MASKED = tuple(f"{task},mask=0.5" for task in PLUS_MINUS)
DEEP = {"backbone": "unet:encoder=resnet18", "size": 64}  # a side that 32 divides; 14 million parameters
TAUGHT, SHORT = {"semi": "unimatch"}, {"steps": 300}
DENSE = Pretext((POSITION, "dense_contrast"))
LOCATED = Pretext((*PLUS_MINUS, POSITION, "locate"))
FAR = ("reconstruct_prev:t=20mm", "reconstruct_next:t=20mm")
QUICK = {  # what may make the first steps of a fine-tuning shorter
    "contrast": Pretext((POSITION,)),
    "±20 mm + contrast": Pretext((*FAR, POSITION)),
    "±t, half of the anchor covered, + contrast": Pretext((*MASKED, POSITION)),
    "slice fusion": Pretext(("slice_fusion",)),
    "inpaint": Pretext(("inpaint",)),
    "contrast + dense contrast": DENSE,
    "±t": Pretext(PLUS_MINUS),
    "locate": Pretext(("locate",)),
}
TRIES = {
    "scratch": Try(None),
    "±t + contrast": Try(BEST),
    "locate": Try(Pretext(("locate",))),
    "contrast + locate": Try(Pretext((POSITION, "locate"))),
    "±t": Try(Pretext(PLUS_MINUS)),
    "contrast": Try(Pretext((POSITION,))),
    "±t + contrast of equal gradients": Try(Pretext((*PLUS_MINUS, AUTO))),
    "±t, half of the anchor covered, + contrast": Try(Pretext((*MASKED, POSITION))),
    "contrast + slice position": Try(Pretext((POSITION, "slice_position:weight=auto"))),
    "contrast + dense contrast": Try(DENSE),
    "±t + contrast + locate": Try(LOCATED),
    "±t + contrast, 3 times longer": Try(longer(3)),
    "±t + contrast, encoder only": Try(BEST, {"transfer": "encoder"}),
    "±t + contrast, pretrained_lr 0.3": Try(BEST, {"pretrained_lr": 0.3}),
    "±t + contrast, frozen for 200 steps": Try(BEST, {"frozen_steps": 200}),
    "contrast, 3 times longer": Try(longer(3, Pretext((POSITION,)))),
    "±t + contrast + locate, 3 times longer": Try(longer(3, LOCATED)),
    "contrast + dense contrast, 3 times longer": Try(longer(3, DENSE)),
    "±t + contrast, 3 times longer, cosine": Try(longer(3, schedule="cosine")),
    "scratch, 2400 steps": Try(None, {"steps": 2400}),
    "±t + contrast, 3 times longer, 2400 steps": Try(longer(3), {"steps": 2400}),
    UNIMATCH: Try(None, TAUGHT),
    "UniMatch from a quarter of the steps": Try(None, {"semi": "unimatch:start=0.25"}, UNIMATCH),
    "UniMatch, weight 2": Try(None, {"semi": "unimatch:weight=2"}, UNIMATCH),
    "UniMatch, sure from 0.8": Try(None, {"semi": "unimatch:threshold=0.8"}, UNIMATCH),
    "UniMatch, contrast": Try(QUICK["contrast"], TAUGHT, UNIMATCH),
    "UniMatch, 2400 steps": Try(None, {**TAUGHT, "steps": 2400}, UNIMATCH),
    "UniMatch, ±t + contrast, 3 times longer": Try(longer(3), TAUGHT, UNIMATCH),
    "scratch, 300 steps": Try(None, SHORT),
    "±t + contrast, 300 steps": Try(BEST, SHORT, "scratch, 300 steps"),
    "UniMatch, 300 steps": Try(None, {**TAUGHT, **SHORT}, "scratch, 300 steps"),
    "UniMatch, ±t + contrast, 300 steps": Try(BEST, {**TAUGHT, **SHORT}, "UniMatch, 300 steps"),
    **{f"{name}, 300 steps": Try(pretext, SHORT, "scratch, 300 steps") for name, pretext in QUICK.items()},
    "UniMatch, contrast, 300 steps": Try(QUICK["contrast"], {**TAUGHT, **SHORT}, "UniMatch, 300 steps"),
    "±t + contrast, encoder only, 300 steps": Try(BEST, {**SHORT, "transfer": "encoder"}, "scratch, 300 steps"),
    "scratch, ResNet18": Try(None, DEEP),
    "contrast, ResNet18": Try(longer(1, QUICK["contrast"], **DEEP), DEEP, "scratch, ResNet18"),
    "±t + contrast, ResNet18": Try(longer(1, **DEEP), DEEP, "scratch, ResNet18"),
    "contrast, 10 times longer": Try(longer(10, QUICK["contrast"])),
}
KEPT = (  # after one draw on CHAOS: the twin, and what was above it by most
    "scratch",
    "±t + contrast, 3 times longer",
    "contrast, 3 times longer",
)


def jobs() -> Iterator[Job]:
    """All trainings: on each set the tries that were kept, with one draw before the next, then the others."""
    short = [name for name, one in TRIES.items() if one.finetune.get("steps") == SHORT["steps"]]
    taught = [name for name in TRIES if name.startswith(UNIMATCH) and name not in short]
    deep = [name for name in TRIES if name.endswith("ResNet18")]
    rest = [name for name in TRIES if name not in (*KEPT, *taught, *deep, *short)]
    for names in (KEPT, taught, deep, short, rest):
        for draw in range(DRAWS):
            for data, budget in ROUNDS:
                yield from (job(data, budget, name, draw) for name in names)


def job(data: str, budget: str, name: str, draw: int) -> Job:
    """One try with one draw; one pre-training serves all draws, and all tries that begin with it."""
    one = TRIES[name]
    if one.pretext is None:
        return Job(data, budget, name, None, None, draw)
    made = next(other for other, earlier in TRIES.items() if earlier.pretext == one.pretext)
    return Job(data, budget, name, made, 0, draw)


def work(root: Path, out: Path) -> Work:
    """The tries as names of pre-trainings and of recipes."""
    made = {name: one.pretext for name, one in TRIES.items() if one.pretext}
    return Work(root, out, RESULTS, made, {name: one.finetune for name, one in TRIES.items()}, "validation")


def table() -> str:
    """A line for each try: scores, and what they add to those of the try that it is compared with."""
    scores, rows = Scores(done(RESULTS)), []
    for name, one in TRIES.items():
        row = [name]
        for data, budget in ROUNDS:
            ours, twin = (scores.of("iou", data=data, budget=budget, recipe=recipe) for recipe in (name, one.beside))
            row += [spread(ours), "" if name == "scratch" else difference(ours, twin)]
        rows.append(row)
    headings = [text for data, budget in ROUNDS for text in (f"{data}, {budget}", "gain")]
    return markdown(["try", *headings], rows)


def main() -> None:
    """Run what is missing, or write the table."""
    given = options(__doc__).parse_args()
    if given.command == "run":
        run(work(given.data, given.out.absolute()), jobs(), given.only, time.time() + 60 * given.minutes)
    else:
        fill("search.py", table())


if __name__ == "__main__":
    main()
