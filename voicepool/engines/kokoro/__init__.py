"""Speech by Kokoro-82M (https://huggingface.co/hexgrad/Kokoro-82M); `engine` has the factory."""
