"""Instruction fine-tuning: makes a base an instruct model. SFT plus what a base lacks.

The chat template's turn tokens are added where the tokenizer has none, `<|im_end|>` becomes the model's stop token,
and the template is saved with the tokenizer. Their rows start at the mean of the others and are trained under LoRA
too, whose other layers would leave them as they are.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

from posttrain.engine.data.template import TURN_END, TURN_START, ChatTemplate
from posttrain.engine.methods.sft import SftMethod
from posttrain.engine.spec import BuiltinTemplate


class IftMethod(SftMethod):
    """Installs template, turn tokens and stop token, and trains as SFT does."""

    def prepare_tokenizer(self, tokenizer: Any) -> tuple[ChatTemplate, list[int]]:
        """Changes the tokenizer in place; returns the template and the ids of its turn tokens.

        Raises:
            TemplateError: the spec asks for the base's own template and there is none.
        """
        template, _ = super().prepare_tokenizer(tokenizer)
        if not isinstance(self._spec.template, BuiltinTemplate):
            return template, []
        old_end = tokenizer.eos_token
        tokens = [AddedToken(text, special=True, normalized=False) for text in (TURN_START, TURN_END)]
        tokenizer.add_tokens(tokens, special_tokens=True)
        tokenizer.eos_token = TURN_END
        if tokenizer.pad_token is None:
            tokenizer.pad_token = old_end or TURN_END
        tokenizer.chat_template = template.text
        return template, sorted(tokenizer.convert_tokens_to_ids([TURN_START, TURN_END]))
