"""The protocol of RealtimeVoiceChat's browser client, as its page speaks it."""
