"""A plan with every key that there is, as the help shows it; what excludes something else stands as a comment."""

from __future__ import annotations

EXAMPLE = """\
id = "case"                      # column of row ids in every file; left out, rows are taken in order
align = "same"                   # or "common": cases that all have, by private set intersection

[labels]
files = ["labels.csv"]           # paths are relative to the plan
column = "default"
task = "classification"          # or "regression"
classes = ["no", "yes"]          # left out, those that occur; outcomes of the program, if there is one
# party = "registry"             # who answers logits; left out, the composer does
# epsilon = 3.0                  # labels are randomised once before the first round; left out, not

[parties.bank]
files = ["bank.csv"]
columns = ["income", "debt"]     # left out, all but the id
component = { kind = "mlp", hidden = [32], width = 16 }
# component = { kind = "linear", width = 16 }
# component = { kind = "small_cnn", shape = [8, 8], channels = 8, width = 16 }
# component = { kind = "code", file = "own.py", name = "Encoder", width = 16 }   # --trust-code bank
# bounds = [0.0, 100000.0]       # public range of all columns, or { income = [0.0, 1e5], debt = ... };
#                                # left out, columns are scaled by their own mean and deviation
# epsilon = 3.0                  # budget for each row: trained at home by DP-SGD; every party has one,
#                                # and bounds, and labels.epsilon is set
# delta = 1e-5                   # at which that is stated
# clip = 1.0                     # largest norm of one row's gradient

[parties.shop]
files = ["shop.csv"]

[composer]
kind = "mlp"                     # or "linear"; isolated: a head for each party
hidden = [32]
outputs = "product"              # isolated: or "mean", "median", "stacked" (fitted to held-out rows)
floor = -5.0                     # isolated, product: least log-probability that one party may give
# sum = "secure"                 # joint: activations added up under masks; or "open"

# [program]                      # program: the parties' components put out logits of symbols
# kind = "sum"                   # or "parity", "comparison", "rules", "table", "code"
# operands = ["bank", "shop"]    # left out, the parties by name
# symbols = 10                   # or one number for each operand; not for parity and table
# modulus = 10                   # sum: its remainder
# rules = [{ when = { bank = [1], shop = [2, 3] }, then = "act" }]
# otherwise = "rest"             # rules: where none applies
# table = [[0, 1], [1, 0]]       # outcome of every combination
# file = "own.py"                # code: --trust-code program
# name = "told"                  # code: a function of one symbol for each operand
# samples = 256                  # code: drawn where combinations are too many to go through

[training]
mode = "isolated"                # or "joint", "program"
epochs = 30
batch_size = 64
optimiser = "adam"               # or "sgd"
learning_rate = 0.01
absence = 0.0                    # share of rounds that a party misses, so that joint serves quorums
held_out = 0.2                   # share of rows that judge
precision = "float32"            # or "int8": how activations and cotangents cross
stale = false                    # cotangents one step late
seed = 0
processes = false                # a sealed process for each party, the label party among them
timeout = 60.0                   # seconds that a party's process may be silent
"""
