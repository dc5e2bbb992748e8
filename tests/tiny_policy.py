"""A tiny Qwen3-shaped policy made on the spot: random weights, or a few exchanges learnt by heart.

Both servers under test (vLLM and the embedded engine) load it from a folder. What it is taught it says back greedily,
so that tool calls, malformed calls and reasoning come out of a real model and through a real parser.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tests.policy_client import Reply

CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{%- endif %}
{{- '<tools>' }}
{%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- if message.reasoning_content %}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif %}
{%- if message.content %}{{ message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- if message.content or not loop.first %}{{ '\\n' }}{%- endif %}
{{- '<tool_call>\\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
{{- (call.function.arguments if call.function.arguments is string else call.function.arguments | tojson) }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}
"""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")


@dataclass(frozen=True)
class Lesson:
    """One exchange to learn by heart: after `messages` (and `tools`), say `completion`."""

    messages: list[dict[str, Any]]
    completion: str
    tools: list[dict[str, Any]] = field(default_factory=list)


def tool(name: str, **parameters: str) -> dict[str, Any]:
    """Return an OpenAI function tool whose parameters are `name=json_type`."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Do {name}.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
            },
        },
    }


def user(text: str) -> list[dict[str, Any]]:
    """Return a one-message conversation."""
    return [{"role": "user", "content": text}]


TOOLS = [tool("search", query="string"), tool("add", a="integer", b="integer")]
SEARCH = '<tool_call>\n{"name": "search", "arguments": {"query": "tokyo"}}\n</tool_call>'
ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
LESSONS = (
    Lesson(user("find"), SEARCH, TOOLS),
    Lesson(user("both"), f"{SEARCH}\n{ADD}", TOOLS),
    Lesson(user("talk"), f"Looking it up.\n{SEARCH}", TOOLS),
    Lesson(user("broken"), '<tool_call>\n{"name": "search", "arguments": {"query": }\n</tool_call>', TOOLS),
    Lesson(user("mixed"), f'{SEARCH}\n<tool_call>\n{{"name": }}\n</tool_call>', TOOLS),
    Lesson(user("open"), '<tool_call>\n{"name": "search", "arguments": {"query": "open"}}', TOOLS),
    Lesson(user("think"), f"<think>\nhmm\n</think>\n\n{SEARCH}", TOOLS),
    Lesson(user("unicode"), 'Grüße 🎉 "{x}" \\n <tool', TOOLS),
    Lesson(user("plain"), "Just an answer, no call.", TOOLS),
    Lesson(user("hello"), "Hello there, it is nice to see you again."),
)


def build(folder: Path, lessons: tuple[Lesson, ...] = LESSONS, *, seed: int = 0) -> Path:
    """Write a tiny model and tokenizer to `folder`, taught `lessons` (none: random weights), and return the folder."""
    tokenizer = _tokenizer(lessons)
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
            pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            architectures=["Qwen3ForCausalLM"],
        )
    )
    if lessons:
        # So small a model gains nothing from a second thread, and loses much when the cores are busy.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        _teach(model, tokenizer, lessons)
        torch.set_num_threads(threads)
    model.generation_config.temperature = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_adapter(folder: Path, policy: Path, *, seed: int = 1) -> Path:
    """Write a random LoRA adapter for the policy in `policy`, strong enough to change its answers."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapter = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=modules, task_type="CAUSAL_LM"))
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapter.save_pretrained(folder)
    return folder


def adapted(policy: Path, adapter: Path) -> Any:
    """Return the policy with an adapter merged into its weights."""
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval()


def logprobs(model: Any, reply: Reply) -> list[float]:
    """Return what `model` thinks of a reply's tokens, at temperature 1."""
    with torch.inference_mode():
        logits = model(torch.tensor([reply.prompt + reply.tokens])).logits[0, len(reply.prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(reply.tokens)[:, None])[:, 0].tolist()


def _tokenizer(lessons: tuple[Lesson, ...]) -> PreTrainedTokenizerFast:
    corpus = [json.dumps(lesson.tools) + lesson.completion for lesson in lessons or LESSONS]
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    bare.add_special_tokens(list(SPECIAL))
    bare.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN])
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def _teach(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, lessons: tuple[Lesson, ...]) -> None:
    rows, targets = [], []
    for lesson in lessons:
        prompt = tokenizer.apply_chat_template(
            lesson.messages, tools=lesson.tools or None, add_generation_prompt=True, return_dict=False
        )
        answer = tokenizer.encode(lesson.completion + "<|im_end|>")
        rows.append(prompt + answer)
        targets.append([-100] * len(prompt) + answer)
    width = max(map(len, rows))
    inputs = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in targets])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    model.train()
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 20)
        logits = model(input_ids=inputs).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        learnt = (logits.argmax(-1) == labels[:, 1:]) | (labels[:, 1:] == -100)
        if loss.item() < 0.02 and bool(learnt.all()):
            model.eval()
            return
    raise AssertionError(f"the tiny policy did not learn its lessons by heart: loss {loss.item():.3f}")
