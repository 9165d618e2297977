"""Pre-trains the package's base model from scratch: `python -m posttrain.engine.base.pretrain --out DIR`.

Text from `corpus.py`, a byte-level BPE trained on its first documents, a Llama of about 3M parameters, Muon for
matrices and AdamW for embeddings and norms, a schedule of warm-up, stable phase and decay. The stable phase does not
depend on the number of steps, so a run can be resumed with another `--steps`.

Shapes: B windows, T positions of a window.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain.engine.base import corpus

EOT = "<|endoftext|>"
RESERVED = ("<|im_start|>", "<|im_end|>")  # never in the corpus: kept free for a chat template, as published bases do
MARKUP = ("<tool_call>", "</tool_call>")  # likewise, but ordinary text to a decoder
HELD_OUT = 1_000_000_000  # documents from this index on are never trained on


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on, with `precision` and the machine's arithmetic."""

    seed: int = 20261123
    vocab_size: int = 2048
    tokenizer_documents: int = 60_000
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 6
    num_heads: int = 6
    window_tokens: int = 512
    windows_per_step: int = 8
    steps: int = 3400
    warmup_steps: int = 60
    decay_steps: int = 1150
    lr: float = 4e-3
    muon_lr: float = 2e-2
    weight_decay: float = 0.02
    precision: str = "bf16"

    def lr_factor(self, step: int) -> float:
        """Linear warm-up, then 1, then linear to 0 over the last `decay_steps`."""
        return min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / self.decay_steps)


def train_tokenizer(recipe: Recipe) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size - len(MARKUP),
        special_tokens=[EOT, *RESERVED],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.documents(recipe.seed, 0, recipe.tokenizer_documents), trainer)
    tokenizer.add_tokens(list(MARKUP))
    return tokenizer


def encode_stream(tokenizer: Tokenizer, seed: int, start: int, num_tokens: int) -> NDArray[np.uint16]:
    """`num_tokens` tokens of documents start, start + 1, ..., each followed by the end-of-text token."""
    out = np.empty(num_tokens, dtype=np.uint16)
    eot = tokenizer.token_to_id(EOT)
    filled, index, began = 0, start, time.monotonic()
    while filled < num_tokens:
        batch = tokenizer.encode_batch(list(corpus.documents(seed, index, index + 2000)), add_special_tokens=False)
        index += 2000
        ids = np.array([i for e in batch for i in (*e.ids, eot)], dtype=np.uint16)[: num_tokens - filled]
        out[filled : filled + len(ids)] = ids
        filled += len(ids)
        if (index - start) % 40_000 == 0:
            left_s = (time.monotonic() - began) * (num_tokens / filled - 1)
            say(f"encoded {filled / 1e6:.1f}M of {num_tokens / 1e6:.1f}M tokens, {left_s:.0f} s left")
    return out


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocab_size, hidden_size=recipe.hidden_size, intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers, num_attention_heads=recipe.num_heads, num_key_value_heads=recipe.num_heads,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, rms_norm_eps=1e-5,
        attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay, momentum=0.95,
                         adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]  # fmt: skip


def loss_of(model: LlamaForCausalLM, ids_BT: torch.Tensor, precision: str) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits_BTV.float().flatten(0, 1), ids_BT[:, 1:].flatten())


def held_out_loss(model: LlamaForCausalLM, tokenizer: Tokenizer, recipe: Recipe, num_windows: int = 32) -> float:
    ids = encode_stream(tokenizer, recipe.seed, HELD_OUT, num_windows * recipe.window_tokens + 1)
    windows = windows_of(ids, recipe.window_tokens)
    with torch.no_grad():
        losses = [float(loss_of(model, part, "fp32")) for part in torch.split(windows, 8)]
    return sum(losses) / len(losses)


def windows_of(ids: NDArray[np.uint16], window_tokens: int) -> torch.Tensor:
    """[B, T + 1] windows; neighbours share one token, so every token but the first is predicted once."""
    num = (len(ids) - 1) // window_tokens
    return torch.from_numpy(
        np.stack([ids[i * window_tokens : (i + 1) * window_tokens + 1] for i in range(num)]).astype(np.int64)
    )


def pretrain(recipe: Recipe, out: Path, work: Path, stop_at: int | None = None) -> dict[str, Any]:
    """Trains (or resumes) in `work`, exports to `out`, returns the record that the model card shows."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    if (work / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(recipe)
        tokenizer.save(str(work / "tokenizer.json"))
    num_tokens = recipe.steps * recipe.windows_per_step * recipe.window_tokens + 1
    cache = work / "tokens.npy"
    ids = np.load(cache) if cache.exists() else np.empty(0, dtype=np.uint16)
    if len(ids) < num_tokens:
        ids = encode_stream(tokenizer, recipe.seed, 0, num_tokens)
        np.save(cache, ids)
    model, start, curve = build_model(recipe), 0, []
    steppers = optimizers(model, recipe)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(steppers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start, curve = state["step"], state["curve"]
        say(f"resumed at step {start}")
    bases = [[group["lr"] for group in o.param_groups] for o in optimizers(model, recipe)]
    per_step = recipe.windows_per_step * recipe.window_tokens
    began, saved_at, running = time.monotonic(), time.monotonic(), float("nan")
    end = min(recipe.steps, stop_at or recipe.steps)
    for step in range(start, end):
        batch = windows_of(ids[step * per_step : (step + 1) * per_step + 1], recipe.window_tokens)
        loss = loss_of(model, batch, recipe.precision)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss {loss.item()} at step {step}")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, lrs in zip(steppers, bases, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * recipe.lr_factor(step)
            optimizer.step()
            optimizer.zero_grad()
        running = loss.item() if math.isnan(running) else 0.95 * running + 0.05 * loss.item()
        if (step + 1) % 25 == 0 or step + 1 == end:
            rate = (step + 1 - start) / (time.monotonic() - began)
            curve.append([step + 1, round(running, 4)])
            left_s = (end - step - 1) / rate
            say(f"step {step + 1}/{end} loss {running:.4f} {rate * per_step:.0f} tokens/s, {left_s:.0f} s left")
        if time.monotonic() - saved_at > 180 or step + 1 == end:
            save_checkpoint(checkpoint, model, steppers, step + 1, curve)
            saved_at = time.monotonic()
    record = {
        "recipe": asdict(recipe), "steps": end, "tokens": end * per_step, "curve": curve,
        "held_out_loss": round(held_out_loss(model, tokenizer, recipe), 4),
        "num_parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__,
    }  # fmt: skip
    export(model, tokenizer, out)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def save_checkpoint(
    path: Path, model: LlamaForCausalLM, steppers: list[torch.optim.Optimizer], step: int, curve: list[list[float]]
) -> None:
    part = path.with_suffix(".part")
    optimizers_state = [o.state_dict() for o in steppers]
    torch.save({"model": model.state_dict(), "optimizers": optimizers_state, "step": step, "curve": curve}, part)
    os.replace(part, path)


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Writes an ordinary Hugging Face folder in fp16, without a chat template."""
    out.mkdir(parents=True, exist_ok=True)
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.float16)
    half.config.dtype = torch.float16
    half.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, do_sample=False)
    half.save_pretrained(out, safe_serialization=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=EOT, eos_token=EOT, model_max_length=1024
    ).save_pretrained(str(out))


def say(line: str) -> None:
    """Progress of a script that is run by hand."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the exported model")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and encoded text (default: OUT.work)")
    parser.add_argument("--stop-at", type=int, help="stop after this step, and export what there is")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = vars(parser.parse_args())
    out, work, stop_at = args.pop("out"), args.pop("work"), args.pop("stop_at")
    record = pretrain(Recipe(**args), out, work or out.with_name(out.name + ".work"), stop_at)
    say(json.dumps({k: v for k, v in record.items() if k != "curve"}))


if __name__ == "__main__":
    main()
