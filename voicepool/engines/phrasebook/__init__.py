"""The embedded assistant: phrase patterns, the skills behind them, and the grammar they make."""
