"""The list G0 to G12, in the words of the certificate; `quiltwork.audit.guarantees` says when one is held."""

from __future__ import annotations

from quiltwork.audit.guarantees import Adversary, Guarantee

_PARTY = Adversary(
    who="a party with a component", behaviour="active", collusion="none", knows="its fragment and all it was sent"
)
_CURIOUS = Adversary(
    who="a party with a component",
    behaviour="passive",
    collusion="none",
    knows="its fragment and one label of each class",
)
_ALL_BUT_COMPOSER = Adversary(
    who="parties with components", behaviour="passive", collusion="any of them together", knows="their own fragments"
)
_ANYONE = Adversary(who="anyone", behaviour="passive", collusion="any", knows="everything but the protected value")
_COMPOSER = Adversary(who="the composer", behaviour="active", collusion="none", knows="data like the party's")

_EACH_MODE = ("joint", "isolated", "program")

GUARANTEES: tuple[Guarantee, ...] = (
    Guarantee(
        "G0",
        "Central equivalence",
        "The parameters after T rounds are those of one process that trains the whole graph, bit for bit.",
        Adversary(who="nobody: a claim of correctness", behaviour="none", collusion="none", knows="nothing"),
        "Seeds keyed by name, a fixed schedule, one thread, the chain rule at the cut.",
        theorem={"joint": "dL/dtheta_i = J_i^T dL/dh_i, computed by the same operations in the same order"},
        otherwise={
            "isolated": "isolated mode has a loss for each party and is no training of one graph",
            "program": "program mode is compared with enumeration in its tests, not with this run",
        },
        needs=(("equivalence",),),
    ),
    Guarantee(
        "G1",
        "Confinement modulo declassification",
        "What a party sends and becomes is a function of its own fragment and of what it was sent.",
        _PARTY,
        "A process of its own, fixed frames, no pickle, sealed by the kernel before the first round.",
        theorem=dict.fromkeys(_EACH_MODE, "no other input reaches the sealed process; replay gives the same bits"),
        needs=(("replay",),),
        each=True,
        sealed=True,
    ),
    Guarantee(
        "G2",
        "Full non-interference",
        "What a party sees and becomes is the same whatever fragments the others hold.",
        _PARTY,
        "A head and a loss for each party; the inputs of each cotangent are declared and checked.",
        theorem={"isolated": "cotangent i is a function of the labels, activation i and head i alone"},
        otherwise={
            "joint": "each cotangent depends on every party's activations",
            "program": "each cotangent is a likelihood given all other operands",
        },
        needs=(("inputs",), ("swap",)),
        each=True,
    ),
    Guarantee(
        "G3",
        "Bounded declassification",
        "What a party was sent is (epsilon, delta)-private in each label.",
        _CURIOUS,
        "Labels randomised once, before the first round; all else is computed from them.",
        theorem=dict.fromkeys(
            _EACH_MODE, "post-processing of randomised labels (Dwork and Roth 2014, proposition 2.1)"
        ),
        needs=(("label-ledger",),),
        attacks=("labels from cotangents",),
    ),
    Guarantee(
        "G4",
        "Composer-only knowledge",
        "The composer's parameters and other parties' activations never reach a party.",
        _ALL_BUT_COMPOSER,
        "A closed set of kinds, declared for each direction; no frame carries what was not declared.",
        theorem=dict.fromkeys(_EACH_MODE, "rows, cotangents and requests are all that goes down"),
        needs=(("words",), ("canary",)),
    ),
    Guarantee(
        "G5",
        "Secrecy of t out of n",
        "Fewer than t custodians know nothing of the key that seals the composer's parameters.",
        Adversary(
            who="custodians", behaviour="passive", collusion="any t - 1", knows="their shares and the sealed file"
        ),
        "Shamir's scheme over 256 elements for the key, authenticated encryption for the parameters.",
        theorem=dict.fromkeys(_EACH_MODE, "t - 1 shares are uniform whatever the secret (Shamir 1979)"),
        needs=(("custody",),),
    ),
    Guarantee(
        "G6",
        "Secure sum",
        "The composer sees the sum of activations and no summand; what the sum tells is not hidden.",
        Adversary(
            who="the composer",
            behaviour="passive; active too, where parties exchanged their identities without it",
            collusion="all but two parties",
            knows="the sum",
        ),
        "Pairwise masks from signed keys, fresh for each sum; a sum without every party's answer is refused.",
        theorem=dict.fromkeys(_EACH_MODE, "all but one masked value are uniform given the sum (Bonawitz et al. 2017)"),
        needs=(("masked-sum",), ("masks",)),
    ),
    Guarantee(
        "G7a",
        "Privacy of labels",
        "One label of another value changes all transcripts by a factor of e^epsilon at most.",
        _ANYONE,
        "k-ary randomised response before the first round.",
        theorem=dict.fromkeys(_EACH_MODE, "randomised response, composed over the holders of labels (Warner 1965)"),
        needs=(("label-ledger",),),
    ),
    Guarantee(
        "G7b",
        "Privacy of records in the released model",
        "One case more or less changes the released model by (epsilon, delta) at most.",
        _ANYONE,
        "Clipped and noised gradients with secret Poisson sampling at each party, composed over parties.",
        theorem={"isolated": "sampled Gaussian mechanism, composed over all holders (arXiv 1607.00133)"},
        otherwise={"": "per-record clipping does not cover a loss that spans several parties"},
        needs=(("record-ledger",),),
    ),
    Guarantee(
        "G7c",
        "Privacy of parties",
        "A whole fragment more or less changes the composition by (epsilon, delta) at most.",
        _ANYONE,
        "None.",
        otherwise={"": "not built: with few parties the noise that this takes leaves no accuracy"},
    ),
    Guarantee(
        "G8",
        "Resistance to membership inference",
        "At a low rate of false alarms few members are found, and no more than the bound of G7b allows.",
        Adversary(
            who="whoever may ask the model", behaviour="passive", collusion="none", knows="rows like those trained on"
        ),
        "That of G7b.",
        theorem={"isolated": "true positives <= e^epsilon false positives + delta (Kairouz et al. 2015)"},
        otherwise={"": "without G7b nothing bounds it, whatever an attack finds"},
        needs=(("record-ledger",), ("membership-bound",)),
        attacks=("membership by shadow models",),
    ),
    Guarantee(
        "G9",
        "Exact opt-out",
        "When a party leaves, what remains is what would be there had it never come, bit for bit.",
        Adversary(who="whoever holds what remains", behaviour="passive", collusion="any", knows="all of it"),
        "Heads and seeds of each party are its own, and reductions have a fixed order.",
        theorem={"isolated": "nothing that remains is a function of what left"},
        otherwise={"": "every other component was trained through the party that leaves: only retraining undoes it"},
        needs=(("opt-out",),),
    ),
    Guarantee(
        "G10",
        "Communication",
        "The bytes that crossed are those of the formula, exactly.",
        Adversary(who="a party or the composer", behaviour="active", collusion="none", knows="everything"),
        "Every frame is counted on its way.",
        theorem=dict.fromkeys(
            _EACH_MODE, "sizes are a function of rounds, rows and widths; contents are not bounded by it"
        ),
        needs=(("bytes",),),
    ),
    Guarantee(
        "G11",
        "Byzantine components",
        "So many arbitrary parties cannot move predictions out of the range of the honest ones.",
        Adversary(who="parties with components", behaviour="active", collusion="any minority", knows="everything"),
        "Checks of kind, shape and norm on every answer; the median of outputs.",
        theorem={"isolated": "with fewer arbitrary outputs than half the median lies between honest ones"},
        otherwise={"": "one party's activations reach every logit through the composer"},
        needs=(("byzantine",),),
    ),
    Guarantee(
        "G12",
        "Malicious composer",
        "A composer cannot train a party's component into an encoder of its fragment unseen.",
        _COMPOSER,
        "Training at home, so that no cotangent crosses, or scrutiny of cotangents by the party.",
        theorem=dict.fromkeys(
            _EACH_MODE, "what was sent gives no way to steer, or carries labels as honest learning does"
        ),
        needs=(("local-loss", "scrutiny"),),
        each=True,
    ),
)
"""All guarantees, in order."""
