"""Chat templates as models have them, written for the tests: each does one thing that some do."""

GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"

CHATML = "{% for m in messages %}" + TURN + "{% endfor %}" + GENERATION
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + CHATML
)
CUT = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
INTO_THE_QUESTION = (
    "{{ bos_token }}{% set told = messages[0].content + '\n\n' if messages[0].role == 'system' "
    "else '' %}{% for m in messages if m.role != 'system' %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else 'user' }}\n{{ told if loop.first else '' }}"
    "{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system messages') }}"
    "{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

SAID = {
    "chatml": CHATML,
    "a default system message": DEFAULT_SYSTEM,
    "white space is cut": CUT,
    "the system message in the first question": INTO_THE_QUESTION,
    "system messages refused": BRACKETS,
    "system messages left out": NO_SYSTEM,
}
"""What a Go template can say."""

UNSAID = {
    "thoughts are cut": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}<|im_end|>\n"
        "{% endfor %}" + GENERATION
    ),
    "the day": "Today is {{ strftime_now('%d %B %Y') }}.\n" + CHATML,
    "numbered": "{% for m in messages %}{{ loop.index }}. {{ m.content }}\n{% endfor %}",
    "the last system message counts": (
        "{% for m in messages %}[{% if loop.last and messages[0].role == 'system' %}"
        "{{ messages[0].content }} {% endif %}{{ m.content }}]{% endfor %}"
    ),
    "capitals": "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    "only of two": "{% if messages | length > 1 %}" + CHATML + "{% endif %}",
    "refuses all": "{{ raise_exception('never') }}",
    "an error of its own": "{% for m in messages %}{{ m.content + 1 }}{% endfor %}",
}
"""What none can say."""
