"""Recomputed and offloaded activations: the same gradients, each layer under the layout of its own pass."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posttrain.engine import activations
from posttrain.engine.activations import Offloaded, checkpoint_layers, saving
from posttrain.engine.adapters import add_lora
from posttrain.engine.attention import Segments
from posttrain.engine.data.packing import collate
from posttrain.engine.errors import SpecError, UnsupportedModelError
from posttrain.engine.methods.reference import sequence_logps
from posttrain.engine.models import LanguageModel
from posttrain.engine.spec import LoraAdapter, MemoryOptions
from tests.engine.test_packed_models import gradients, make_rows, packed_loss
from tests.engine.test_run import LORA, losses_of, succeeded, with_task
from tests.engine.tiny import make_task, tiny_model


def twins(name: str, lora: bool = False) -> tuple[LanguageModel, LanguageModel]:
    """The same model twice, in train mode, the second with recomputed layers."""
    pair = tiny_model(name), tiny_model(name)
    for model in pair:
        if lora:
            torch.manual_seed(1)
            add_lora(model.module, LoraAdapter(rank=3, dropout=0.2), "b@1")
            with torch.no_grad():  # at zero, B hides every mistake in A's gradient
                for key, parameter in model.module.named_parameters():
                    if "lora_B" in key:
                        parameter.normal_()
        model.module.train()
    checkpoint_layers(pair[1].module)
    return pair


def losses_and_gradients(model: LanguageModel) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(2)  # of dropout
    loss = packed_loss(model, make_rows())
    return loss.detach(), gradients(model, loss)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6 * scale, msg=name)


@pytest.mark.parametrize(
    ("name", "lora"),
    [(name, lora) for name in ("llama", "gemma3", "gemma2", "gpt2") for lora in (False, True)] + [("gptoss", False)],
)
def test_recomputed_layers_give_the_same_gradients(name: str, lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are recomputed: attention runs twice a layer, with dropout drawing the same numbers again."""
    plain, recomputed = twins(name, lora)
    expected_loss, expected = losses_and_gradients(plain)
    calls, attend = [], Segments.attend
    monkeypatch.setattr(Segments, "attend", lambda self, *rest: (calls.append(self), attend(self, *rest))[1])
    loss, found = losses_and_gradients(recomputed)
    assert len(calls) == 2 * recomputed.module.config.num_hidden_layers
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    assert_equal(found, expected)


def test_less_is_kept_for_the_backward_pass() -> None:
    kept = []
    for model in twins("llama"):
        num_bytes = 0

        def pack(saved: Tensor) -> Tensor:
            nonlocal num_bytes
            num_bytes += saved.nbytes
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            packed_loss(model, make_rows())
        kept.append(num_bytes)
    assert kept[1] < 0.4 * kept[0]  # what is left is the head, the last norm and two layers' inputs


def test_without_its_context_a_recomputed_layer_would_not_know_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "_contexts", lambda: (nullcontext(), nullcontext()))
    _, recomputed = twins("llama")
    loss = packed_loss(recomputed, make_rows())
    with pytest.raises(UnsupportedModelError, match="outside of a packed pass"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_each_pass_is_recomputed_under_its_own_layout_also_in_another_thread() -> None:
    """Two passes before one backward pass; CUDA's runs in a thread that has no context of ours."""
    plain, recomputed = twins("llama")
    found = []
    for model in (plain, recomputed):
        total = packed_loss(model, make_rows()) + 2 * packed_loss(model, make_rows(1)[:3])
        model.module.zero_grad()
        errors: list[BaseException] = []

        def backward(total: Tensor = total, errors: list[BaseException] = errors) -> None:
            try:
                total.backward()  # type: ignore[no-untyped-call]
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=backward)
        thread.start()
        thread.join()
        assert not errors
        found.append({name: parameter.grad for name, parameter in model.trainable()})
    assert_equal(found[1], found[0])


def test_a_pass_can_be_recomputed_again_and_again() -> None:
    """Log-probabilities keep what their gradient needs, so it can be taken twice."""
    plain, recomputed = twins("llama")
    found = []
    for model in (plain, recomputed):
        total = sequence_logps(collate(make_rows()), model).sum()
        model.module.zero_grad()
        for _ in range(2):
            total.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        found.append({name: parameter.grad for name, parameter in model.trainable()})
    assert_equal(found[1], found[0])


def test_a_model_without_such_layers_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"memory\.gradient_checkpointing: Linear does not support it"):
        checkpoint_layers(nn.Linear(2, 2))


def test_offloaded_activations_give_the_same_gradients_and_parameters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "MIN_OFFLOADED_BYTES", 1024)
    model, copies, empty = tiny_model("llama"), list[tuple[int, ...]](), torch.empty_like

    def counted(tensor: Tensor, **options: Any) -> Tensor:
        if options.get("device") == "cpu":
            copies.append(tuple(tensor.shape))
        return empty(tensor, **options)

    expected = gradients(model, packed_loss(model, make_rows()))
    monkeypatch.setattr(torch, "empty_like", counted)
    parameters = list(model.module.parameters())
    with Offloaded(parameters, devices=("cpu",)):
        loss = packed_loss(model, make_rows())
    moved = list(copies)
    found = gradients(model, loss)
    assert_equal(found, expected)
    assert (1, 53, 32) in moved  # [B, T, D] of the rows' 53 tokens
    shapes = {tuple(parameter.shape) for parameter in parameters}
    assert not shapes & ({*moved} | {shape[::-1] for shape in moved})
    assert all(4 * torch.Size(shape).numel() >= 1024 for shape in moved)


def test_nothing_is_offloaded_from_a_cpu() -> None:
    module = tiny_model("llama").module
    assert isinstance(saving(MemoryOptions(offload_activations=True), [module]), nullcontext)
    assert isinstance(saving(MemoryOptions(), [module]), nullcontext)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recompute", [False, True])
def test_on_cuda_offloaded_and_recomputed_gradients_are_the_same(recompute: bool) -> None:
    model = tiny_model("llama")
    model.module.to("cuda").train()

    def run(options: MemoryOptions) -> dict[str, Tensor]:
        from posttrain.engine.methods import METHODS, Models
        from tests.engine.test_packed_models import parse_sft

        method, rows = METHODS["sft"](parse_sft()), make_rows()
        with saving(options, [model.module]):
            loss, _ = method.loss(method.collate(rows, model.device), Models(model), method.window(rows, Models(model)))
        return gradients(model, loss)

    expected = run(MemoryOptions())
    if recompute:
        checkpoint_layers(model.module)
    assert_equal(run(MemoryOptions(offload_activations=True)), expected)


@pytest.mark.parametrize("adapter", [{"type": "full"}, LORA])
def test_a_job_with_recomputed_layers_trains_the_same(tmp_path: Path, adapter: dict[str, Any]) -> None:
    """To the bit: the same operations on the same numbers, with dropout's generator put back."""
    plain = make_task(tmp_path, "ift", adapter=adapter)
    succeeded(plain, tmp_path / "a1")
    memory = {"gradient_checkpointing": True, "offload_activations": True}
    succeeded(with_task(plain, spec={**plain.spec.model_dump(), "memory": memory}), tmp_path / "a2")
    assert losses_of(tmp_path / "a1") == losses_of(tmp_path / "a2")
    for path in sorted((tmp_path / "a1" / "output").iterdir()):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes(), path.name
