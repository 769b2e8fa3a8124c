"""``quiltwork generate``: text from a base or composed model, and who wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli.inputs import check_device, print_json, say
from quiltwork.cli.trusting import RevocationKeys, Revocations, refuse_revoked

if TYPE_CHECKING:
    from rich.text import Text
    from torch import Tensor

NAME = "generate"
HELP = """Continue a prompt with a base or composed model.

With --experts each token is coloured by the party whose expert had the largest weight in choosing it."""
EXAMPLES = """Examples:

`quiltwork generate native --prompt "def read(" --experts`

`quiltwork generate composed --prompt "The patient" --max-new-tokens 80 --temperature 0.8 --seed 1`"""
_COLOURS = ("white", "cyan", "yellow", "magenta", "green", "blue", "red")


def run(
    model: Annotated[Path, typer.Argument(help="A composed model, or another checkpoint directory.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add at most.")] = 60,
    temperature: Annotated[
        float, typer.Option(help="How freely tokens are drawn; 0 always takes the likeliest.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draws, where --temperature is above 0.")] = 0,
    experts: Annotated[bool, typer.Option(help="Show whose expert had most weight in each token.")] = False,
    device: Annotated[str, typer.Option(help="Where torch computes: cpu, cuda, mps and the like.")] = "cpu",
    trust: RevocationKeys = None,
    revocations: Revocations = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Continue a prompt with a base or composed model."""
    if max_new_tokens < 1 or temperature < 0:
        raise typer.BadParameter("--max-new-tokens must be positive and --temperature not negative")
    refuse_revoked([model], trust, revocations)
    from quiltwork.evaluate.trace import token_texts
    from quiltwork.models.tokenizer_files import load_tokenizer

    network, slots = answering(model)
    network = network.to(check_device(device)).eval()
    tokenizer: Any = load_tokenizer(model)
    sequence, start = continued(
        network, tokenizer, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    text = "".join(token_texts(tokenizer, sequence[start:].tolist(), skip_special=True))
    shown = _answered(network, tokenizer, sequence, start, slots) if slots and (experts or json) else []
    if experts and not slots:
        say("this model has no router: the same weights answered every token")
    if json:
        print_json({"prompt": prompt, "text": text, "tokens": shown})
    elif shown:
        _print_coloured(prompt, shown, slots)
    else:
        print(prompt + text)


def continued(
    network: Any, tokenizer: Any, prompt: str, *, max_new_tokens: int, temperature: float, seed: int
) -> tuple[Tensor, int]:
    """The prompt's tokens and those that the model adds, int64 ``[tokens]``, and how many are the prompt's.

    Raises:
        CheckpointError: the tokenizer has tokens that the model does not know, or an answer is not finite.
    """
    import torch

    from quiltwork.models.plain import require_known
    from quiltwork.models.tokenizer_files import separator_id

    start = [separator_id(tokenizer), *tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]]
    require_known(max(start), network, "the tokenizer beside the model")
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    ids = torch.tensor([start], device=network.device)
    with torch.no_grad():
        sequence = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=separator_id(tokenizer),
            logits_processor=[_finite],
            **sampling,
        )[0]
    return sequence, len(start)


def _finite(_: Tensor, scores: Tensor) -> Tensor:
    """What the next token is drawn by, as it is."""
    from quiltwork.models.plain import require_finite

    require_finite(scores, "the model")
    return scores


def answering(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The model of a directory, and the names of its slots if it has a router."""
    from quiltwork.composite import PROVENANCE, open_composite
    from quiltwork.composite.written import read_written
    from quiltwork.errors import ExportError
    from quiltwork.models.base import open_base

    if (path / PROVENANCE).is_file():
        try:
            composite = open_composite(path)
        except ExportError:
            read_written(path).verify()
            return open_base(path, what="model").load_model(), ()
        return composite.model(), composite.slots
    return open_base(path, what="model").load_model(), ()


def _answered(model: Any, tokenizer: Any, sequence: Any, start: int, slots: tuple[str, ...]) -> list[dict[str, Any]]:
    """Each new token with the slot of largest weight in predicting it."""
    import torch

    from quiltwork.evaluate.routing import folded
    from quiltwork.evaluate.trace import Trace, token_texts

    with Trace(model) as trace, torch.no_grad():
        trace.begin_batch(torch.ones(1, len(sequence) - 1, dtype=torch.long), [0])
        model(input_ids=sequence[None, :-1], use_cache=False)
    columns = torch.stack(trace.weights).mean(dim=0)[0, start - 1 :]
    weights = folded(columns.double().numpy(force=True), len(slots))
    best = weights.argmax(axis=-1).tolist()
    pieces = token_texts(tokenizer, sequence[start:].tolist(), skip_special=True)
    return [
        {"text": piece, "slot": slots[slot], "weight": round(float(share[slot]), 4)}
        for piece, slot, share in zip(pieces, best, weights, strict=True)
    ]


def _print_coloured(prompt: str, shown: list[dict[str, Any]], slots: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.text import Text

    colour = {slot: _COLOURS[i % len(_COLOURS)] for i, slot in enumerate(slots)}
    text: Text = Text(prompt, style="dim")
    for token in shown:
        text.append(token["text"], style=colour[token["slot"]])
    console = Console()
    console.print(text, soft_wrap=True)
    legend = Text()
    for slot in slots:
        legend.append(f" {slot} ", style=f"reverse {colour[slot]}")
        legend.append(" ")
    console.print(legend)
    if console.color_system is None:
        say("no colours are shown here: --json tells whose expert had most weight in each token")
