"""`/v1/realtime`: the OpenAI Realtime protocol, in both dialects. `protocol.py` is the way in."""
