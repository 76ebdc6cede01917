"""voicepool: a process pool of warm speech pipelines, one caller a worker."""

__version__ = "0.1.0"
