"""Instruction fine-tuning: makes a base an instruct model. SFT plus what a base lacks.

The built-in chat template's tokens are added where the tokenizer has none, its stop token becomes the model's, and the
template is saved with the tokenizer. Rows of new tokens start at the mean of the others; all of the template's tokens
are trained under LoRA too, whose other layers would leave them as they are.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

from posttrain.engine.data.builtin import BUILTIN
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.methods.sft import SftMethod
from posttrain.engine.spec import BuiltinTemplate


class IftMethod(SftMethod):
    """Installs template, turn tokens and stop token, and trains as SFT does."""

    def prepare_tokenizer(self, tokenizer: Any) -> tuple[ChatTemplate, list[int]]:
        """Changes the tokenizer in place; returns the template and the ids of its tokens.

        Raises:
            TemplateError: the spec asks for the base's own template and there is none.
        """
        if not isinstance(self._spec.template, BuiltinTemplate):
            return super().prepare_tokenizer(tokenizer)
        wanted = BUILTIN[self._spec.template.name].tokens
        old_end = tokenizer.eos_token
        # Also one that is there as ordinary text becomes a special token: no message can spell it then.
        tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in wanted], special_tokens=True)
        template, _ = super().prepare_tokenizer(tokenizer)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = old_end or tokenizer.eos_token
        return template, sorted(tokenizer.convert_tokens_to_ids(list(wanted)))
