"""Whisper on CTranslate2 (https://github.com/SYSTRAN/faster-whisper); `engine` has the factory."""
