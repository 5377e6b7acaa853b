"""Chat templates in the style of well-known models, and conversations for them."""

from typing import Any

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LLAMA = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message is taken out, so that it can be placed. -#}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One tool call at a time") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if message.role == "tool" or message.tool_calls is defined %}{% continue %}{% endif %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("user and assistant must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
    {%- if ns.index > 40 %}{% break %}{% endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {%- generation %}{{ " " + message["content"]|trim ~ eos_token }}{% endgeneration %}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' ~ message.content|string ~ ", " }}
        {{- '"call_id": "' + message.get("tool_call_id", "0") + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
{%- if user_messages | length == 0 %}nobody{% endif %}
"""

QWEN = """{%- macro render_content(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for item in content %}
            {%- if item.type == 'text' or 'text' in item %}{{- item.text }}{% endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson | safe }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not
       (message.content.startswith('<tool_response>') and
        message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = render_content(message.content)|trim %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')
               [-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n' }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set call = tool_call.function if tool_call.function else tool_call %}
            {%- for name, value in call.arguments|items %}
                {{- '<parameter=' + name + '>' }}
                {{- value | tojson | safe if value is mapping or
                   (value is sequence and value is not string) else value | string }}
            {%- endfor %}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}<|im_start|>user{% endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
{%- endif %}
"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{% endfor %}
"""

UNUSUAL = """{% for m in messages %}{{ m.role.center(12) }}|{{ m.content|wordwrap(9) }}
{{ '%-9s|' % m.role }}{{ m|dictsort }}{{ [3, 1]|sort }}{% endfor %}"""
"""Operations that the meter does not know, so that a child process renders it."""

MIXED = """{% set d = dict(a=1, b='x') %}{{ d }}{{ d|tojson }}{{ [1, 2.5, none, true] }}{{ 1 < 2 }}
{{ messages|map(attribute='role')|join(',') }}{{ messages|selectattr('role', 'in', ['user'])|list }}
{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}{{ 'a-b'.replace('-', '+')|upper }}
{% filter upper %}inside {{ messages[0].role }}{% endfilter %}{% set x %}block{% endset %}{{ x }}
{% macro wrap(text) %}{{ caller() }}{{ text }}{% endmacro %}{% call wrap('q') %}called{% endcall %}
{{ 'one two'.split() }}{{ ('a', 'b') }}{{ undefined_name }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ 'ab' * 3 }}
{{ 'line\nnext'|indent(2) }}{{ 'x' if false }}{{ messages[-1]['content'][:3] }}{{ range(4)|list }}
{% for i in range(3) if i != 1 %}{{ loop.index }}/{{ loop.length }} {{ loop.cycle('a', 'b') }}
{% else %}none{% endfor %}{% for m in [[1, [2]], [3]] recursive %}{% if m is iterable %}
({{ loop(m) }}){% else %}{{ m }}{% endif %}{% endfor %}{{ 'abc'|list }}{{ 'b' in 'abc' }}"""

TEMPLATES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen": QWEN,
    "gemma": GEMMA,
    "unusual": UNUSUAL,
    "mixed": MIXED,
}

Conversation = list[dict[str, Any]]

_CALL = {"function": {"name": "add", "arguments": {"a": [1, 2], "b": "<é>", "c": {"d": None}}}}

CONVERSATIONS: dict[str, Conversation] = {
    "one turn": [{"role": "user", "content": "Hello, {{ world }} <b>&amp;</b>!\n"}],
    "system": [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>\nsum\n</think>\n\n2", "reasoning": "a sum"},
        {"role": "user", "content": "Danke, 漢字 \N{GRINNING FACE}"},
    ],
    "tools": [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "7", "name": None},
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "Again."},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}],
    "wrong order": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
}
