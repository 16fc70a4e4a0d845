"""Checks of the exercises on chapter 10: your model."""

from __future__ import annotations

from hyperfit_course.checks.core import Answer, exercise, need, show, spot

VERDICTS = ("holds", "direction only", "contradicted", "inconclusive", "no verdict")


@exercise(
    points=1,
    notice="What the network keeps of a batch comes on top. How does the plan of a study find out how much that is?",
)
def training_gigabytes(answer: Answer) -> None:
    """Whether a function counts the memory of weights, gradients and moments in float32."""
    found = answer.number(1_000_000_000, 1_000_000_000)
    spot(
        found,
        "a billion parameters, all trained",
        {
            4.0: "those are the weights alone. Which numbers does training keep beside each of them?",
            8.0: "those are weights and gradients. AdamW keeps two more numbers a parameter.",
            12.0: "one of the four numbers is missing: weight, gradient, and two moments.",
            16e9: "those are bytes, and gigabytes are wanted.",
            8.0e9: "those are bytes of two numbers a parameter; four are kept, and gigabytes are wanted.",
            2.0: "are 4 bits or 2 bytes a number meant? In float32 a number has 4 bytes.",
        },
    )
    need(
        abs(found - 16e9 / 2**30) > 1e-6,
        "For a billion parameters, all trained, it gives 14.9: a gigabyte is here a billion bytes, not 2 to the 30th.",
    )
    need(abs(found - 16) < 1e-9, f"For a billion parameters, all trained, it gives {found:.4g}, and 16 is wanted.")
    frozen = answer.number(1_000_000_000, 0)
    need(
        abs(frozen - 16) > 1e-9,
        "For a billion parameters, none of them trained, it gives as much as if all were: a frozen parameter has no "
        "gradient and no moments.",
    )
    need(
        frozen > 0,
        "For a billion frozen parameters it gives 0: they are not trained, and they have to be in memory all the same.",
    )
    need(abs(frozen - 4) < 1e-9, f"For a billion frozen parameters it gives {frozen:.4g}, and their weights take 4.")
    adapters = answer.number(135_000_000, 600_000)
    wanted = 0.5472
    need(
        abs(adapters - 0.5496) > 1e-9,
        "For 135 million parameters of which 0.6 million are trained, it counts the weights of the trained ones twice: "
        "the first number has them already.",
    )
    need(
        abs(adapters - wanted) < 1e-9,
        f"For 135 million parameters, of which 0.6 million are trained, it gives {adapters:.6g}: {wanted} is wanted.",
    )


@exercise(
    points=2,
    notice="Which verdict can three seeds hardly ever give, whatever the truth is? Try effects that differ a lot.",
)
def verdict(answer: Answer) -> None:
    """Whether a function gives the course's verdict on the effects of some seeds."""

    def expect(effects: list[float], threshold: float, wanted: str, hint: str) -> None:
        found = answer(effects, threshold)
        need(
            isinstance(found, str) and found in VERDICTS,
            f"With {show(effects, threshold)} it returned {found!r}: one of {show(VERDICTS)} is wanted.",
        )
        need(
            found == wanted,
            f"With the effects {show(effects)} and the threshold {threshold}, it says {found!r}. {hint}",
        )

    expect([0.4], 0.142, "no verdict", "One seed has no interval, however large its effect is.")
    expect([0.30, 0.31, 0.32], 0.142, "holds", "The interval lies far above 0, and the mean above the threshold.")
    expect(
        [0.10, 0.11, 0.12],
        0.142,
        "direction only",
        "The interval lies above 0, and the mean does not reach the threshold.",
    )
    expect(
        [0.15, 0.18, 0.21],
        0.142,
        "holds",
        "Once the interval lies above 0, the mean is compared with the threshold, and not the lower end.",
    )
    expect(
        [0.02, 0.10, 0.18],
        0.05,
        "inconclusive",
        "With three seeds the quantile is 4.30, so that the interval holds 0: 1.96 is for many values.",
    )
    expect(
        [0.055, 0.10, 0.145],
        0.05,
        "inconclusive",
        "The interval just holds 0, if s is the standard deviation of a sample, and 2.5 % lie beyond each end.",
    )
    expect(
        [0.01, 0.11, 0.15, 0.13],
        0.05,
        "holds",
        "The reach of the interval is that of a mean: s is divided by the root of n.",
    )
    expect(
        [-0.01, 0.0, 0.02],
        0.142,
        "contradicted",
        "The interval holds 0, and it ends below the threshold: no effect of that size is possible.",
    )
    expect([-0.30, -0.31, -0.29], 0.0, "contradicted", "The interval lies below 0.")
    expect(
        [-0.1, 0.05, 0.15],
        0.0,
        "inconclusive",
        "The interval holds 0, and the threshold of 0 as well.",
    )


@exercise(
    points=2,
    notice="What happens to your number if the true standard deviation is twice that of the pilot?",
)
def seeds_needed(answer: Answer) -> None:
    """Whether a function plans the number of seeds from a pilot."""

    def expect(pilot: list[float], wanted: int | None, faults: dict[int | None, str], hint: str) -> None:
        found = answer.or_none(pilot)
        need(
            found is None or type(found) is int,
            f"With {show(pilot)} it returned {found!r}: a whole number or None is wanted.",
        )
        need(found not in faults or found == wanted, f"With {show(pilot)} it says {found}. {faults.get(found)}")
        need(found == wanted, f"With {show(pilot)} it says {found}. {hint}")

    expect(
        [0.1, 0.3],
        5,
        {
            2: "With two seeds the quantile of t is 12.7, and not 1.96: the interval would hold 0.",
            4: "Nearly. Is the standard deviation that of a sample, and do 2.5 % lie beyond each end of the interval?",
            81: "The quantile has the degrees of freedom of the planned number, and yours those of the pilot.",
            None: "A larger number has a smaller quantile and a smaller error of the mean. Does your loop go on?",
        },
        "Its mean is 0.2 and its standard deviation 0.141.",
    )
    expect(
        [0.30, 0.31, 0.30],
        2,
        {3: "A plan may have fewer seeds than the pilot."},
        "Two are the fewest with an interval.",
    )
    expect(
        [0.0, 0.2, -0.1, 0.1],
        29,
        {
            28: "The quantile has one degree of freedom less than there are seeds.",
            26: "A quantile of 1.96 is for many values.",
        },
        "Its mean is 0.05 and its standard deviation 0.129.",
    )
    expect(
        [-0.1, -0.3], None, {}, "The effect has the other sign: no number of seeds brings an interval of it above 0."
    )
    expect([-1.0, 1.01], None, {}, "A hundred seeds are not enough for so small a mean, and more are not asked for.")
