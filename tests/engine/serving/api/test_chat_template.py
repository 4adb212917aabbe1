"""Chats are written as transformers writes them; what clients send is never part of a template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")
transformers = pytest.importorskip("transformers", reason="the oracle is not installed")
import jinja2  # noqa: E402

from collectors.errors import DataError  # noqa: E402
from engine.serving.api.chat import ChatPlan  # noqa: E402
from engine.serving.api.chat_protocol import ChatRequest  # noqa: E402
from engine.serving.api.chat_template import (  # noqa: E402
    ChatTemplate,
    TemplateError,
    load_chat_template,
)
from engine.serving.api.served_model import load_served_model  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

# As the families write theirs: Llama 3, ChatML (Qwen), Mistral; and all that templates may call.
LLAMA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
CHATML = """{%- if tools %}
    {{- 'tools: ' + tools | tojson }}
{%- endif %}
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token}}{% endif %}{% endfor %}"
)
EVERYTHING = """
{% set ns = namespace(n=0) %}
    {% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {% if ns.n > 2 %}{% break %}{% endif %}
    {% set ns.n = ns.n + 1 %}
{{ ns.n }} {{ message | tojson }} {{ message | tojson(indent=2, sort_keys=true) }}
    {% generation %}{{ dict(a=message.content, b=1) }}{% endgeneration %}
    {{ message.name is defined }} {{ tools is none }} {{ documents is none }} {{ unk_token }}
    {{- message.content.split('a') | map('upper') | list }} {{ strftime_now('%Y') }}
    {% endfor %}
{# a comment #} {{ undefined_thing }}|{{ '%s' % messages | length }}
"""
CHATS = [
    [{"role": "user", "content": "hi"}],
    [{"role": "system", "content": " be brief \n"}, {"role": "user", "content": "naïve <b>&'\""}],
    [
        {"role": "user", "content": "{{ 7 * 7 }}{% raise %}"},
        {"role": "assistant", "content": "{# no #}"},
        {"role": "user", "content": "", "name": "ann"},
    ],
]


def write(directory: Path, template: object, *, in_config: bool = False) -> Any:
    """A model's directory with a template, and transformers' tokenizer of it."""
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": {"content": "<|endoftext|>", "__type": "AddedToken"},
    }
    if in_config:
        config["chat_template"] = template
    else:
        (directory / "chat_template.jinja").write_text(str(template))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def directory(model_directory: Path, tmp_path: Path) -> Path:
    for path in model_directory.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "tokenizer_config.json").unlink()
    return tmp_path


@pytest.mark.parametrize("template", [LLAMA, CHATML, MISTRAL, EVERYTHING])
@pytest.mark.parametrize("in_config", [True, False])
def test_the_text_is_that_of_transformers(directory: Path, template: str, in_config: bool) -> None:
    oracle = write(directory, template, in_config=in_config)
    ours = load_chat_template(directory)
    assert ours is not None
    compared = 0
    for chat in CHATS:
        try:
            expected = oracle.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            with pytest.raises(TemplateError, match="roles must alternate"):
                ours.render(chat)
            assert "roles must alternate" in str(error)
        else:
            assert ours.render(chat) == expected
            compared += 1
    assert compared >= 2


def test_tokens_are_those_of_transformers_and_begin_once(directory: Path) -> None:
    """The tokenizer itself puts a token before every text; the template has it already."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    (directory / "tokenizer.json").unlink()
    tokenizer.save(str(directory / "tokenizer.json"))
    oracle = write(directory, LLAMA)
    model = load_served_model(directory, name=None, max_len=None)
    assert model.tokenizer.encode("x").ids[0] == 0
    body = ChatRequest.model_validate({"model": "tiny", "messages": CHATS[0], "max_tokens": 1})
    (request,) = ChatPlan(body, model, iter(range(9)).__next__).requests
    expected = oracle.apply_chat_template(CHATS[0], add_generation_prompt=True, return_dict=False)
    assert list(request.prompt) == list(expected)
    assert request.prompt.count(0) == 1


def test_which_template_counts(directory: Path) -> None:
    """Of several by name the default; the file before the configuration; none at all is none."""
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    write(directory, named, in_config=True)
    ours = load_chat_template(directory)
    assert ours is not None
    assert ours.render([]) == "D"
    (directory / "chat_template.jinja").write_text("F")
    ours = load_chat_template(directory)
    assert ours is not None
    assert ours.render([]) == "F"
    (directory / "chat_template.jinja").unlink()
    (directory / "tokenizer_config.json").unlink()
    assert load_chat_template(directory) is None


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ('{"chat_template": "{% for"}', "not usable"),
        ('{"chat_template": "{% include \'/etc/passwd\' %"}', "not usable"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("\x00", "not JSON"),
    ],
)
def test_a_directory_with_a_bad_template_is_refused(
    directory: Path, config: str, told: str
) -> None:
    (directory / "tokenizer_config.json").write_text(config)
    with pytest.raises(DataError, match=told):
        load_chat_template(directory)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ dict.__class__.__base__ }}{{ dict.__init__.__globals__['json'] }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ ('%s' | format(messages)).format.__self__.x }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(99999999) %}{% endfor %}",
        "{{ 1 + '1' }}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_reaches_nothing_outside(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])
    assert str(caught.value) == "the model's chat template cannot write them"
