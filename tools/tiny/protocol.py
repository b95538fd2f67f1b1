"""The fixed texts of the DeepSeek V4 chat template, byte for byte."""

import json

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, ENDTHINK, DSML = "<think>", "</think>", "｜DSML｜"

PREAMBLE = f"""## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning inside {THINK}...{ENDTHINK} BEFORE any tool calls or final response.

Otherwise, output directly after {ENDTHINK} with tool calls or final response.

### Available Tool Schemas

"""
SHORT_PREAMBLE = "## Tools\n\n"
POSTAMBLE = "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n"
FORMAT = "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"


def call_text(name, args):
    """one tool call; args: (parameter, value) pairs, strings as they are and all else as JSON"""
    lines = []
    for p, v in args:
        kind, text = ("true", v) if isinstance(v, str) else ("false", json.dumps(v))
        lines.append(f'<{DSML}parameter name="{p}" string="{kind}">{text}</{DSML}parameter>\n')
    body = "".join(lines) or "\n"
    return f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="{name}">\n{body}</{DSML}invoke>\n</{DSML}tool_calls>'
