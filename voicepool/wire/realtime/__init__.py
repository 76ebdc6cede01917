"""`/v1/realtime`: the OpenAI Realtime protocol, GA dialect. `protocol.py` is the way in."""
