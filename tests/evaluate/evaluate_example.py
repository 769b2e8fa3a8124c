"""Realistic scores: eight domains, five parties, eight methods, figures near those of a prototype."""

from __future__ import annotations

from functools import cache

from quiltwork.evaluate.plots import Drawing, draw_all
from quiltwork.evaluate.scores import Cell, Release, Routing, Row, Sample, Scores, Token

PARTIES = ("code", "math", "medical", "law", "fiction")
PUBLIC = ("wikipedia", "speeches", "physics")
DOMAINS = (*PARTIES, *PUBLIC)

# columns in the order of DOMAINS
METHODS: dict[str, tuple[float, ...]] = {
    "base": (4.712, 3.402, 3.871, 4.615, 3.175, 2.100, 1.812, 1.938),
    "soup": (3.390, 2.610, 2.920, 3.301, 2.729, 2.330, 2.190, 2.221),
    "uniform_ensemble": (2.701, 2.144, 2.502, 2.790, 2.523, 2.201, 2.030, 2.085),
    "btm": (2.012, 1.280, 1.903, 2.188, 2.282, 2.104, 1.815, 1.940),
    "learned_rows": (3.433, 2.622, 2.990, 3.590, 2.715, 2.521, 2.150, 2.139),
    "evidence_ffn": (2.601, 1.801, 2.380, 2.812, 2.481, 2.109, 1.816, 1.953),
    "evidence_full": (2.051, 1.310, 1.940, 2.219, 2.310, 2.109, 1.816, 1.953),
    "pooled": (2.131, 1.420, 2.065, 2.331, 2.438, 1.995, 1.720, 1.828),
}
ALONE: dict[str, tuple[float, ...]] = {
    "code": (2.110, 3.205, 3.902, 4.480, 3.310, 2.610, 2.390, 2.402),
    "math": (4.420, 1.311, 3.650, 4.402, 3.120, 2.480, 2.205, 2.212),
    "medical": (4.508, 3.180, 2.020, 4.290, 3.150, 2.390, 2.140, 2.163),
    "law": (4.630, 3.360, 3.890, 2.150, 3.190, 2.530, 2.310, 2.342),
    "fiction": (4.590, 3.240, 3.702, 4.470, 2.301, 2.345, 2.010, 2.188),
}
ACTIVE = {"soup": 1, "uniform_ensemble": 6, "btm": 6, "evidence_ffn": 1.1, "learned_rows": 2.2}
SIZE = 1_103_872


def table_row(values: tuple[float, ...], active: float = 1, std: float = 0.012) -> Row:
    cells = {
        d: Cell(value=v, spread=std, amount=200_000 + 7 * i, items=40 + i)
        for i, (d, v) in enumerate(zip(DOMAINS, values, strict=True))
    }
    return Row(domains=cells, active_params=active * SIZE, total_params=6 * SIZE, seconds=41.5)


def without(party: str) -> Row:
    values = list(METHODS["evidence_full"])
    place = DOMAINS.index(party)
    values[place] = METHODS["base"][place] - 0.2
    values[(place + 1) % 5] += 0.03
    values[(place + 2) % 5] -= 0.04
    return table_row(tuple(values))


def shares(domain: str, focus: float) -> tuple[float, ...]:
    slots = ("public", *PARTIES)
    own = domain if domain in PARTIES else "public"
    return tuple(focus if slot == own else (1 - focus) / 5 for slot in slots)


def routing() -> dict[str, dict[str, Routing]]:
    slots = ("public", *PARTIES)
    depths = {"evidence_full": (0.93,) * 4, "learned_rows": (0.2, 0.35, 0.3, 0.55)}
    return {
        m: {d: Routing(slots=slots, layers=tuple(shares(d, f) for f in focus)) for d in DOMAINS}
        for m, focus in depths.items()
    }


def sample(domain: str, text: list[tuple[str, str]]) -> Sample:
    tokens = tuple(Token(text=t, slot=s, weight=0.5 + 0.04 * (i % 12)) for i, (t, s) in enumerate(text))
    return Sample(domain=domain, method="evidence_full", tokens=tokens)


CODE = [
    "def",
    " front",
    "(",
    "rows",
    "):",
    "\n",
    "    ",
    "return",
    " [",
    "r",
    " for",
    " r",
    " in",
    " rows",
    "]\n",
]
LAW = [
    "Die",
    " Klage",
    " wird",
    " ab",
    "gew",
    "iesen",
    ".",
    "\n\n",
    "Die",
    " Kosten",
    " trägt",
    " der",
    " Kl",
    "äger",
]


def example() -> Scores:
    return Scores(
        machine="2 CPU cores, 8 GiB",
        created="2026-11-20T12:00:00+00:00",
        base="sha256:" + "ab" * 32,
        parties=PARTIES,
        public=PUBLIC,
        domains=DOMAINS,
        methods={m: table_row(values, ACTIVE.get(m, 1)) for m, values in METHODS.items()},
        alone={p: table_row(values) for p, values in ALONE.items()},
        leave_one_out={"evidence_full": {p: without(p) for p in PARTIES}},
        routing=routing(),
        contributions={
            p: Release(
                digest="sha256:" + f"{i}{i}" * 32,
                bytes=2_411_008 + 31_000 * i,
                seconds=40.2 + i,
                epsilon=8.0 if p == "medical" else None,
            )
            for i, p in enumerate(PARTIES)
        },
        samples=(
            sample("code", [(t, "public" if i < 2 else "code") for i, t in enumerate(CODE * 3)]),
            sample("law", [(t, ("public", "fiction", "law")[min(i, 2)]) for i, t in enumerate(LAW * 3)]),
        ),
        opt_out_identical=True,
        seconds=412.0,
    )


@cache
def drawn_example() -> list[Drawing]:
    return draw_all(example())


def many(parties: int) -> Scores:
    """Scores of 2 to 12 parties with long names, three methods and one public domain."""
    names = tuple(f"regional-hospital-number-{i:02d}-of-the-north" for i in range(parties))
    domains = (*names, "wikipedia")

    def row(own: float, shift: float) -> Row:
        return Row(
            domains={d: Cell(value=own + shift * ((7 * i) % 5 - 2)) for i, d in enumerate(domains)},
            active_params=SIZE,
            total_params=SIZE,
        )

    layers = tuple(tuple(1 / parties for _ in names) for _ in range(3))
    return Scores(
        parties=names,
        public=("wikipedia",),
        domains=domains,
        methods={"base": row(3.0, 0.1), "soup": row(2.5, -0.1), "evidence_full": row(2.0, 0.05)},
        alone={p: row(2.1, 0.02 * i) for i, p in enumerate(names)},
        leave_one_out={"evidence_full": {p: row(2.02, 0.04) for p in names}},
        routing={"evidence_full": {d: Routing(slots=names, layers=layers) for d in domains}},
        contributions={p: Release(digest="0" * 64, bytes=10**6 * (i + 1)) for i, p in enumerate(names)},
    )
