"""OpenAI's own client, as it is, against a real server."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

openai = pytest.importorskip("openai", reason="needs the test extra")

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def ask(client: Any, prompt: Any = "def attend(", **fields: Any) -> Any:
    fields = {"max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}} | fields
    return client.completions.create(model="tiny", prompt=prompt, **fields)


def chat(client: Any, messages: Any = CHAT, **fields: Any) -> Any:
    fields = {"max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}} | fields
    return client.chat.completions.create(model="tiny", messages=messages, **fields)


def test_a_completion_its_usage_and_the_models(client: Any) -> None:
    answer = ask(client)
    assert (answer.object, answer.model) == ("text_completion", "tiny")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    assert len(ask(client, max_tokens=openai.NOT_GIVEN).choices[0].text) > 0


def test_streaming_gives_the_same_text(client: Any) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == ask(client).choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert all(c.usage is None for c in chunks[:-1])


def test_several_prompts_and_several_choices(client: Any) -> None:
    sampled = {"temperature": 1.0, "seed": 5, "n": 3, "best_of": 3}
    answer = ask(client, ["x = ", "y = "], **sampled)
    assert [choice.index for choice in answer.choices] == list(range(6))
    texts = [choice.text for choice in answer.choices]
    assert len(set(texts[:3])) == 3
    assert [choice.text for choice in ask(client, ["x = ", "y = "], **sampled).choices] == texts
    streamed = [""] * 6
    for chunk in ask(client, ["x = ", "y = "], stream=True, **sampled):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts


def test_stop_and_echo(client: Any) -> None:
    whole = ask(client).choices[0].text
    stop = whole[4:6]
    stopped = ask(client, stop=[stop]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole[: whole.index(stop)]
    echoed = ask(client, echo=True).choices[0].text
    assert echoed == "def attend(" + whole
    assert "".join(c.choices[0].text for c in ask(client, echo=True, stream=True)) == echoed


def test_token_prompts(client: Any) -> None:
    assert ask(client, [5, 6, 7]).choices[0].text == ask(client, [[5, 6, 7]]).choices[0].text


def test_eight_at_once_get_what_each_gets_alone(client: Any) -> None:
    prompts = [f"{'def ' * n}f{n}(" for n in range(8)]
    alone = [ask(client, prompt).choices[0].text for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda prompt: ask(client, prompt).choices[0].text, prompts))
    assert together == alone


def test_logprobs_tell_of_every_token(client: Any) -> None:
    choice = ask(client, logprobs=3).choices[0]
    told = choice.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == 12
    for token, logprob, top in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, strict=True
    ):
        assert len(top) == 3
        assert logprob == top[token] == max(top.values()) <= 0  # greedy: the likeliest
        assert sum(math.exp(value) for value in top.values()) <= 1 + 1e-6
    for offset, token in zip(told.text_offset, told.tokens, strict=True):
        if "\\x" not in token and not token.startswith(("<|", "token_id")):
            # after bytes that became no character, whose U+FFFD is only then shown, one later
            assert choice.text.startswith((token, "\ufffd" + token), offset)
    streamed = [c.choices[0].logprobs for c in ask(client, logprobs=3, stream=True)]
    assert [token for part in streamed for token in part.tokens] == told.tokens
    assert [offset for part in streamed for offset in part.text_offset] == told.text_offset
    assert ask(client).choices[0].logprobs is None
    assert len(ask(client, logprobs=0).choices[0].logprobs.top_logprobs[0]) == 1


def test_a_biased_token_wins_and_a_stop_token_ends(client: Any) -> None:
    body: dict[str, Any] = {"ignore_eos": True}
    biased = ask(client, logit_bias={"70": 100}, logprobs=1).choices[0]
    assert len(set(biased.logprobs.tokens)) == 1
    body["stop_token_ids"] = [70]
    ended = ask(client, logit_bias={"70": 100}, extra_body=body)
    assert ended.choices[0].finish_reason == "stop"
    assert ended.usage.completion_tokens == 1


def test_penalties_and_truncation_change_what_is_drawn(client: Any) -> None:
    plain = ask(client, temperature=0, max_tokens=60).choices[0].text
    penalized = ask(client, max_tokens=60, frequency_penalty=2.0, presence_penalty=2.0)
    assert penalized.choices[0].text != plain
    for one in ({"top_k": 1}, {"min_p": 1.0}, {"repetition_penalty": 1.0, "top_k": 1}):
        body = {"ignore_eos": True} | one
        drawn = ask(client, temperature=1.0, seed=3, max_tokens=60, extra_body=body)
        assert drawn.choices[0].text == plain


def test_a_chat_and_its_stream(client: Any) -> None:
    answer = chat(client, logprobs=True, top_logprobs=2)
    assert (answer.object, answer.choices[0].message.role) == ("chat.completion", "assistant")
    text = answer.choices[0].message.content
    told = answer.choices[0].logprobs.content
    assert len(told) == answer.usage.completion_tokens == 12
    assert all(len(each.top_logprobs) == 2 for each in told)
    joined = b"".join(bytes(each.bytes or []) for each in told)
    assert joined.decode(errors="replace") == text
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert all(delta.role is None for delta in deltas[1:])
    assert "".join(delta.content for delta in deltas) == text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == answer.usage
    assert all(c.usage is None for c in chunks[:-1])


def test_a_chat_is_a_completion_of_what_the_template_writes(server: Any, client: Any) -> None:
    """Content is data: of a string and of parts, of what looks like a template too."""
    content = "{{ 7 * 7 }}{% for i in messages %}{{ bos_token }}{% endfor %}"
    parts = [{"type": "text", "text": text} for text in ("a", content)]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "ann"},
    ]
    text = f"<|endoftext|>[system] be brief\n[user ann] a\n{content}\n[assistant]"
    answer, plain = chat(client, messages), ask(client, text)
    assert answer.usage.prompt_tokens == plain.usage.prompt_tokens
    assert answer.choices[0].message.content == plain.choices[0].text


def test_several_answers_and_a_conversation_that_goes_on(client: Any) -> None:
    sampled = {"temperature": 1.0, "seed": 5, "n": 3}
    answer = chat(client, **sampled)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    streamed = [""] * 3
    for chunk in chat(client, stream=True, **sampled):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content
    assert streamed == texts
    again = [*CHAT, answer.choices[0].message, {"role": "user", "content": "and?"}]
    assert chat(client, again).usage.prompt_tokens > answer.usage.prompt_tokens
    stopped = chat(client, stop=texts[0][3:5], **sampled).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == texts[0][: texts[0].index(texts[0][3:5])]


def test_limits_of_a_chat(client: Any) -> None:
    """Without a limit an answer may fill the context; the newer name means the same."""
    unlimited = chat(client, max_tokens=openai.NOT_GIVEN)
    assert unlimited.usage.total_tokens == 128
    assert (
        chat(client, max_tokens=openai.NOT_GIVEN, max_completion_tokens=3).usage.total_tokens < 99
    )


def test_openai_raises_its_own_errors(server: Any, client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="context holds 128") as caught:
        ask(client, max_tokens=200)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    with pytest.raises(openai.NotFoundError, match="no model of that name"):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="I do not speak of that"):
        chat(client, [{"role": "user", "content": "refuse"}])
    with server.openai(api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
