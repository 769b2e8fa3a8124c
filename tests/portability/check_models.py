"""Whether this environment's transformers computes with composed checkpoints what the composer's computed.

    python tests/portability/check_models.py OUT/models

needs torch, transformers and numpy, and not quiltwork. For each directory: no key is missing, unexpected or mis-shaped,
the tokenizer reads a text as the composer's did, and the logits are those in ``NAME.npz`` up to ``TOLERANCE``. Logits
are sums in float32, and versions of transformers add the experts' answers in another order, so equal bits are more than
can be asked; the largest difference is printed. Directories that begin with ``broken-`` must fail in one of the ways.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

TOLERANCE = 2e-5


def fault(place: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    expected = np.load(place.with_suffix(".npz"))
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(place, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        return f"it does not load: {str(error).splitlines()[0]}"
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            return f"{len(info[kind])} {kind.replace('_', ' ')}, {sorted(info[kind])[0]} among them"
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    if tokenizer(str(expected["text"]))["input_ids"] != expected["text_ids"].tolist():
        return "the tokenizer reads a text otherwise"
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.from_numpy(expected["ids"]), use_cache=False).logits.numpy()
    difference = float(np.abs(logits - expected["logits"]).max())
    print(f"  {place.name}: largest difference {difference:.1e}")
    return None if difference <= TOLERANCE else f"logits differ by {difference}"


def broken(place: Path) -> str | None:
    """What is wrong with a directory that holds a mistake on purpose: that nothing was found."""
    found = fault(place)
    print(f"  {place.name}: found, as it should be: {found}" if found else f"  {place.name}: nothing found")
    # transformers 5 reads fused names itself; only the versions before must find fault with them
    allowed = place.name == "broken-fused-names" and int(transformers.__version__.split(".")[0]) >= 5
    return None if found or allowed else "a mistake that the check did not find"


def main(models: Path) -> int:
    """Check every directory; the number of faults."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    places = sorted(path for path in models.iterdir() if path.is_dir())
    checks = {place: broken(place) if place.name.startswith("broken-") else fault(place) for place in places}
    faults = {place.name: found for place, found in checks.items() if found}
    for name, found in faults.items():
        print(f"FAULT {name}: {found}")
    print(f"{len(places)} checkpoints, {len(faults)} faults")
    return len(faults) + (not places)


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1])), 1))
