"""The session object as a client writes it, in session.update or with its client secret.

A field that is UNSET stays as it was; None clears it. Unknown fields are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Whole = float
"""Whole in the specification; clients that compute them as floating point send fractions."""


# --- sound -----------------------------------------------------------------------------------


class Pcm(Struct, tag_field="type", tag="audio/pcm"):
    """Signed 16-bit little-endian mono."""

    rate: Literal[8000, 16000, 24000, 48000] | None = None


class Pcmu(Struct, tag_field="type", tag="audio/pcmu"):
    """G.711 mu-law; its rate is known."""


class Pcma(Struct, tag_field="type", tag="audio/pcma"):
    """G.711 A-law; its rate is known."""


Format = Pcm | Pcmu | Pcma


class ServerVad(Struct, tag_field="type", tag="server_vad"):
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    prefix_padding_ms: Annotated[Whole, Meta(ge=0, le=5_000)] | None = None
    silence_duration_ms: Annotated[Whole, Meta(ge=32, le=10_000)] | None = None
    idle_timeout_ms: Annotated[Whole, Meta(ge=1_000, le=600_000)] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None


class SemanticVad(Struct, tag_field="type", tag="semantic_vad"):
    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None


class NoVad(Struct, tag_field="type", tag="none"):
    """How some clients write null."""


Vad = ServerVad | SemanticVad | NoVad


class Transcription(Struct, omit_defaults=True):
    model: str | None = None
    language: Annotated[str, Meta(max_length=64)] | None = None
    prompt: str | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None
    keywords: list[str] | None = None
    languages: list[str] | None = None


class NoiseReduction(Struct, omit_defaults=True):
    type: Literal["near_field", "far_field"] | None = None
    strength: float | None = None


class AudioInput(Struct):
    format: Format | UnsetType | None = UNSET
    transcription: Transcription | UnsetType | None = UNSET
    noise_reduction: NoiseReduction | UnsetType | None = UNSET
    turn_detection: Vad | UnsetType | None = UNSET


class VoiceId(Struct):
    id: Name


class AudioOutput(Struct):
    format: Format | UnsetType | None = UNSET
    voice: Name | VoiceId | UnsetType | None = UNSET
    speed: Annotated[float, Meta(ge=0.25, le=1.5)] | UnsetType | None = UNSET


class Audio(Struct):
    input: AudioInput | None = None
    output: AudioOutput | None = None


# --- tools -----------------------------------------------------------------------------------


class FunctionTool(Struct, tag_field="type", tag="function", omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class McpFilter(Struct, omit_defaults=True):
    read_only: bool | None = None
    tool_names: list[str] | None = None


class McpApproval(Struct, omit_defaults=True):
    always: McpFilter | None = None
    never: McpFilter | None = None


class McpTool(Struct, tag_field="type", tag="mcp", omit_defaults=True):
    """Stored, echoed without its secrets, and never called."""

    server_label: str
    server_url: str | None = None
    server_description: str | None = None
    allowed_tools: list[str] | McpFilter | None = None
    require_approval: Literal["always", "never"] | McpApproval | None = None


class ToolChoiceFunction(Struct, tag_field="type", tag="function"):
    name: Name


class ToolChoiceMcp(Struct, tag_field="type", tag="mcp", omit_defaults=True):
    server_label: str
    name: str | None = None


Tools = Annotated[list[FunctionTool | McpTool], Meta(max_length=512)]
ToolChoice = Literal["none", "auto", "required"] | ToolChoiceFunction | ToolChoiceMcp


# --- the session -----------------------------------------------------------------------------

Modalities = Annotated[list[Literal["audio", "text"]], Meta(min_length=1, max_length=2)]
MaxTokens = Annotated[int, Meta(ge=1, le=1_000_000)] | Literal["inf"]
Temperature = Annotated[float, Meta(ge=0, le=2)]


class Tracing(Struct, omit_defaults=True):
    workflow_name: str | None = None
    group_id: str | None = None
    metadata: dict[str, Any] | None = None


class TokenLimits(Struct, omit_defaults=True):
    post_instructions: int | None = None


class RetentionRatio(Struct, tag_field="type", tag="retention_ratio", omit_defaults=True):
    retention_ratio: float
    token_limits: TokenLimits | None = None


class PromptText(Struct, tag_field="type", tag="input_text"):
    text: str


class PromptImage(Struct, tag_field="type", tag="input_image"):
    detail: Literal["low", "high", "auto", "original"] = "auto"
    file_id: str | UnsetType | None = UNSET
    image_url: str | UnsetType | None = UNSET


class PromptFile(Struct, tag_field="type", tag="input_file", omit_defaults=True):
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


class Prompt(Struct, omit_defaults=True):
    id: str
    version: str | None = None
    variables: dict[str, str | PromptText | PromptImage | PromptFile] | None = None


class Reasoning(Struct, omit_defaults=True):
    effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class SessionPatch(Struct):
    """What a session.update changes."""

    type: Literal["realtime", "transcription"] | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    output_modalities: Modalities | UnsetType | None = UNSET
    instructions: str | UnsetType | None = UNSET
    tools: Tools | UnsetType | None = UNSET
    tool_choice: ToolChoice | UnsetType | None = UNSET
    max_output_tokens: MaxTokens | UnsetType | None = UNSET
    temperature: Temperature | UnsetType | None = UNSET
    audio: Audio | None = None
    # Kept and echoed for clients that look for them; they change nothing here.
    tracing: Literal["auto"] | Tracing | UnsetType | None = UNSET
    truncation: Literal["auto", "disabled"] | RetentionRatio | UnsetType | None = UNSET
    prompt: Prompt | UnsetType | None = UNSET
    include: list[Literal["item.input_audio_transcription.logprobs"]] | UnsetType | None = UNSET
    reasoning: Reasoning | UnsetType | None = UNSET
    parallel_tool_calls: bool | UnsetType | None = UNSET
