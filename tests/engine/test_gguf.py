"""GGUF files become ordinary folders; anything else is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from posttrain.engine import gguf as converter
from posttrain.engine.errors import ModelError, ModelNotFoundError

VOCABULARY = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ġa", "ab"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2,
            max_position_embeddings=64, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip


def permuted(weight: torch.Tensor, heads: int) -> np.ndarray:
    """llama.cpp's order of query and key rows: the halves of each head interleaved (its script `permute`s)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns).numpy()


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3, 3, 3, *[1] * (len(VOCABULARY) - 3)])
    writer.add_token_merges(["Ġ a", "a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
        "model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
        "model.layers.0.self_attn.k_proj.weight": "blk.0.attn_k.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
        "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
        "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
        "model.layers.0.mlp.up_proj.weight": "blk.0.ffn_up.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
        "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    }
    for name, weight in model.state_dict().items():
        array = permuted(weight, 2) if "q_proj" in name or "k_proj" in name else weight.numpy()
        writer.add_tensor(names[name], np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_converted_model_computes_what_the_original_computes(tmp_path: Path) -> None:
    model = tiny()
    write_gguf(tmp_path / "tiny.gguf", model)
    converter.convert(tmp_path / "tiny.gguf", tmp_path / "out")

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    assert not hasattr(again.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == TEMPLATE
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert {path.name for path in (tmp_path / "out").glob("*.bin")} == set()


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny())
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError):
        converter.convert(tmp_path / "tiny.gguf", tmp_path / "out")


def test_the_command_reports_by_code_and_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zip.gguf").write_bytes(b"PK\x03\x04 this is no model")
    assert converter.main([str(tmp_path / "zip.gguf"), str(tmp_path / "out")]) == 1
    assert "BAD_MODEL: zip.gguf is not a GGUF file" in capsys.readouterr().err
    assert converter.main([]) == 2


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"gone\.gguf"):
        converter.check_gguf(tmp_path / "gone.gguf")
    old = tmp_path / "old.gguf"
    old.write_bytes(b"GGUF" + struct.pack("<I", 1) + b"\0" * 16)
    with pytest.raises(ModelError, match="version 1"):
        converter.check_gguf(old)
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(b"GGUF" + struct.pack("<I", 3) + b"\0\1")
    with pytest.raises(ModelError, match="cannot be read"):
        converter.convert(torn, tmp_path / "torn")
